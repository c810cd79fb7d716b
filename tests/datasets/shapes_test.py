import itertools
import re

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from coca_jax.datasets import shapes
from coca_jax.datasets.shapes import CLASS_NAMES, COLORS, KINDS, NOVEL, SEEN, Shape

COLOR_NAMES, KIND_NAMES = list(COLORS), list(KINDS)
PATTERN = re.compile(r"an? (?:(small|large) )?(\w+) (\w+)(?: at the (\w+ \w+))?")


def make(place, size, color, kind):
    return Shape(
        shapes.PLACES.index(place),
        shapes.SIZES.index(size),
        COLOR_NAMES.index(color),
        KIND_NAMES.index(kind),
    )


SCENE = (
    make("top left", "small", "orange", "circle"),
    make("top right", "large", "blue", "star"),
    make("bottom right", "small", "blue", "ring"),
)


def sample(split, count=300):
    rng = np.random.default_rng(0)
    return [shapes.sample_scene(rng, split) for _ in range(count)]


def test_each_color_and_each_kind_is_held_out_once():
    names = [CLASS_NAMES[i].split() for i in NOVEL]
    assert sorted(color for color, _ in names) == sorted(COLORS)
    assert sorted(kind for _, kind in names) == sorted(KINDS)
    assert sorted([*NOVEL, *SEEN]) == list(range(64))


def test_splits_have_the_combinations_they_promise():
    for split, novel in (("train", False), ("test", False), ("test_novel", True)):
        for scene in sample(split):
            assert any(shape.combination in NOVEL for shape in scene) == novel


def test_no_scene_is_in_two_splits():
    caption_sets = [
        {shapes.captions(scene)[0] for scene in sample(s)} for s in shapes.Shapes.counts
    ]
    assert not any(a & b for a, b in itertools.combinations(caption_sets, 2))


def test_every_seen_combination_is_tested_and_mostly_trained_alone():
    alone = [
        (Shape(place, size, *divmod(int(combination), 8)),)
        for combination in SEEN
        for place in range(4)
        for size in range(2)
    ]
    tested = [scene[0].combination for scene in alone if shapes.split_of(scene) == "test"]
    assert sorted(tested) == sorted(SEEN.tolist())


def test_scenes_have_their_shapes_in_reading_order_and_different():
    scenes = sample("train", 1000)
    for scene in scenes:
        assert [s.place for s in scene] == sorted({s.place for s in scene})
        assert len({s.combination for s in scene}) == len(scene)
    counts = np.bincount([len(scene) for scene in scenes]) / 1000
    np.testing.assert_allclose(counts, [0, 0.5, 0.25, 0.25], atol=0.06)


def test_captions_of_a_scene():
    assert shapes.captions(SCENE) == [
        "a small orange circle at the top left, a large blue star at the top right"
        " and a small blue ring at the bottom right",
        "an orange circle at the top left, a blue star at the top right"
        " and a blue ring at the bottom right",
        "a small orange circle, a large blue star and a small blue ring",
        "an orange circle, a blue star and a blue ring",
        "an orange circle",
        "a blue star",
        "a blue ring",
    ]


def test_captions_are_true_and_name_no_shape_twice():
    for scene in sample("train", 100):
        shown = [
            (shapes.SIZES[s.size], COLOR_NAMES[s.color], KIND_NAMES[s.kind], s.place) for s in scene
        ]
        for text in shapes.captions(scene):
            found = PATTERN.findall(text)
            assert 1 <= len(found) <= len(scene)
            matches = [
                {
                    i
                    for i, (s, c, k, p) in enumerate(shown)
                    if size in ("", s)
                    and (color, kind) == (c, k)
                    and place in ("", shapes.PLACES[p])
                }
                for size, color, kind, place in found
            ]
            assert all(matches) and len(set.union(*matches)) >= len(found)


def test_questions_have_one_right_answer():
    pairs = dict(shapes.questions(SCENE, np.random.default_rng(0)))
    fixed = {q: a for q, a in pairs.items() if not q.startswith("is there")}
    assert fixed == {
        "how many shapes are there?": "three",
        "what shape is at the top left?": "circle",
        "what colour is the circle?": "orange",
        "what size is the circle?": "small",
        "where is the circle?": "top left",
        "what shape is orange?": "circle",
        "what shape is at the top right?": "star",
        "what colour is the star?": "blue",
        "what size is the star?": "large",
        "where is the star?": "top right",
        "what shape is at the bottom right?": "ring",
        "what colour is the ring?": "blue",
        "what size is the ring?": "small",
        "where is the ring?": "bottom right",
    }  # and not: what shape is blue?


def test_yes_and_no_are_asked_rightly():
    rng = np.random.default_rng(0)
    shown = {CLASS_NAMES[shape.combination] for shape in SCENE}
    for _ in range(50):
        asked = [(q, a) for q, a in shapes.questions(SCENE, rng) if q.startswith("is there")]
        names = {a: re.fullmatch(r"is there an? (.*)\?", q)[1] for q, a in asked}
        assert names["yes"] in shown and names["no"] not in shown
        assert CLASS_NAMES.index(names["no"]) not in NOVEL


@pytest.mark.parametrize("place, rows, columns", [(0, (0, 16), (0, 16)), (3, (16, 32), (16, 32))])
@pytest.mark.parametrize("kind", range(8))
def test_shapes_are_drawn_in_their_place_and_color(kind, place, rows, columns):
    image = shapes.render((Shape(place, 1, 0, kind),), np.random.default_rng(kind)).astype(int)
    red = image[..., 0] - image[..., 1] > 120
    where = np.argwhere(red)
    assert (where.min(0) >= (rows[0], columns[0])).all()
    assert (where.max(0) < (rows[1], columns[1])).all()
    assert 30 < red.sum() < 170
    assert np.median(image[~red], axis=0).min() > 200  # a light background


def test_large_is_larger_than_small_whatever_the_jitter():
    for kind in range(8):
        areas = [
            [
                (shapes.render((Shape(0, size, 7, kind),), np.random.default_rng(s)) < 150).sum()
                for s in range(20)
            ]
            for size in (0, 1)
        ]
        assert max(areas[0]) < min(areas[1])


def test_kinds_differ_when_small():
    drawn = [
        cv2.cvtColor(
            shapes.render((Shape(0, 0, 7, kind),), np.random.default_rng(0)), cv2.COLOR_RGB2GRAY
        ).astype(float)
        for kind in range(8)
    ]
    for first in range(8):
        for second in range(first):
            assert np.abs(drawn[first] - drawn[second]).sum() > 1000  # about five whole pixels


def judged(count=400, split="train"):
    rng = np.random.default_rng(0)
    return [(scene, shapes.hypotheses(scene, rng)) for scene in sample(split, count)]


def test_hypotheses_stand_to_the_scene_as_is_said():
    for scene, found in judged():
        names = {CLASS_NAMES[shape.combination] for shape in scene}
        for text, judgement in found:
            if number := re.fullmatch("there (?:is|are) (one|two|three) shapes?", text):
                true = shapes.NUMBERS[len(scene) - 1] == number[1]
                assert judgement == ("entailment" if true else "contradiction")
                continue
            words = text.split()
            if words[-1] in shapes.UNSEEN:
                there = " ".join(words[1:3]) in names
                assert judgement == ("neutral" if there else "contradiction")
            else:  # the circle is red
                true = f"{words[3]} {words[1]}" in names
                assert judgement == ("entailment" if true else "contradiction")


def test_the_text_alone_tells_no_more_than_half():
    answers = {}
    for _, found in judged(3000):
        for text, judgement in found:
            kind = "unseen" if text.split()[-1] in shapes.UNSEEN else text.split()[1] + text[-4:]
            kind = text if text.startswith("there") else kind
            answers.setdefault(kind, []).append(judgement)
    for some in answers.values():
        shares = np.unique(some, return_counts=True)[1] / len(some)
        assert shares.max() < 0.5 + 2 / np.sqrt(len(some))


def test_training_is_not_asked_about_held_out_combinations():
    novel = {CLASS_NAMES[i] for i in NOVEL}
    for _, found in judged():
        for text, _ in found:
            words = text.split()
            assert not {f"{words[-1]} {words[1]}", " ".join(words[1:3])} & novel


def test_foils_are_wrong_in_a_detail():
    rng = np.random.default_rng(0)
    for scene in sample("test", 200):
        right, wrong = shapes.foil(scene, rng)
        assert right in shapes.captions(scene)
        assert wrong not in shapes.captions(scene) and wrong != right
        kinds = [[text.count(kind) for kind in KIND_NAMES] for text in (right, wrong)]
        assert kinds[0] == kinds[1]


def test_version_1_1_draws_what_version_1_0_drew():
    rng = np.random.default_rng([shapes.SEED, 0, 0])
    scene = shapes.sample_scene(rng, "train")
    shapes.questions(scene, rng)
    image = shapes.render(scene, rng)
    assert (int(image.sum()), image[16, 8].tolist()) == (710967, [246, 224, 231])


def test_tfds_opens_it_as_any_data_set(prepared):
    assert tfds.data_source("shapes", split="test", data_dir=prepared)[0]["image"].ndim == 3
