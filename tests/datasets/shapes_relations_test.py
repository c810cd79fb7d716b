import collections
import re

import numpy as np
import pytest

from coca_jax.data.captions import listed
from coca_jax.data.sources.tfds import tfds_source
from coca_jax.datasets import shapes, shapes_relations
from coca_jax.datasets.shapes import CLASS_NAMES, COLORS, KINDS, NOVEL, Shape

NAME = r"an? (\w+ \w+)"
RELATION = "left of|right of|higher than|lower than"
KINDS_OF_TEXT = ("relation", "count", "negation")


def places(scene, name):
    """Rows and columns of the shapes of a name, such as "red star"."""
    color, kind = name.split()
    return [
        (shape.place // 2, shape.place % 2)
        for shape in scene
        if (list(COLORS)[shape.color], list(KINDS)[shape.kind]) == (color, kind)
    ]


def stands(scene, first, relation, second):
    return any(
        {
            "left of": column < other_column,
            "right of": column > other_column,
            "higher than": row < other_row,
            "lower than": row > other_row,
        }[relation]
        for row, column in places(scene, first)
        for other_row, other_column in places(scene, second)
    )


def holds(scene, text):
    """Whether a text is true of a scene, by its words alone."""
    if match := re.fullmatch(f"{NAME} and no (.*)", text):
        return bool(places(scene, match[1])) and not places(scene, match[2])
    if match := re.fullmatch(f"{NAME} ({RELATION}) {NAME}(?: and ({RELATION}) {NAME})?", text):
        first, relation, second, more, third = match.groups()
        chained = not more or stands(scene, first, more, third)
        return chained and stands(scene, first, relation, second)
    counts = {}
    for part in text.split(" and "):
        number, name = part.split(" ", 1)
        counts[singular(name) if number == "two" else name] = 2 if number == "two" else 1
    assert set(counts) <= set(CLASS_NAMES) and len(counts) == 2
    return all(len(places(scene, name)) == count for name, count in counts.items())


def singular(text):
    for kind in KINDS:
        text = text.replace(f"{kind}es" if kind == "cross" else f"{kind}s", kind)
    return text


def words(text):
    """The words of a text in order of the alphabet, in the singular and without articles."""
    return sorted(re.sub(r"\ban? ", "", singular(text)).split())


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return {
        split: [shapes_relations.sample_scene(rng, split) for _ in range(300)]
        for split in ("train", "test", "test_novel")
    }


def pairs_of(scenes, kind):
    rng = np.random.default_rng(1)
    make = shapes_relations.KINDS_OF_TEXT[kind]
    return [(scene, pair) for scene in scenes for pair in make(scene, rng)]


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_a_text_is_true_and_its_foil_of_the_same_words_is_false(kind, scenes):
    pairs = pairs_of(scenes["train"] + scenes["test_novel"], kind)
    assert len(pairs) > 100
    for scene, (text, foil) in pairs:
        assert holds(scene, text) and not holds(scene, foil), (scene, text, foil)
        assert words(text) == words(foil)


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_the_form_of_a_text_does_not_tell_which_one_is_true(kind, scenes):
    """With names of shapes left out, and numbers in place, right texts look as foils do."""
    forms = [
        [re.sub(f"({'|'.join(COLORS)}) ({'|'.join(KINDS)})(e?s)?", "X", text) for text in pair]
        for _, pair in pairs_of(scenes["train"] + scenes["test"], kind)
    ]
    forms = [[re.sub(r"\ban? ", "", text) for text in pair] for pair in forms]
    for form in {right for right, _ in forms}:
        right, wrong = (sum(texts[i] == form for texts in forms) for i in (0, 1))
        assert abs(right - wrong) < 3 * np.sqrt(right + wrong)


@pytest.mark.parametrize("kind", ["relation", "negation"])
def test_the_place_of_a_name_does_not_tell_which_text_is_true(kind, scenes):
    """Both texts have one form: each color, shape and name stands as often in each place of it."""
    counts = collections.Counter()
    for _, pair in pairs_of(scenes["train"] + scenes["test"], kind):
        for is_foil, text in enumerate(pair):
            for place, name in enumerate(re.findall("|".join(CLASS_NAMES), text)):
                counts.update((place, of, is_foil) for of in (name, *name.split()))
    places = {(place, of) for place, of, _ in counts}
    assert len(places) > 2 * len(COLORS) + 2 * len(KINDS)
    for place, of in places:
        right, wrong = counts[place, of, 0], counts[place, of, 1]
        assert abs(right - wrong) < 3.5 * np.sqrt(right + wrong), (place, of)


def test_scenes_have_two_or_three_shapes_and_keep_to_their_split(scenes):
    for split, of_split in scenes.items():
        assert {shapes.split_of(scene) for scene in of_split} == {split}
        twins = [len({shape.combination for shape in scene}) < len(scene) for scene in of_split]
        assert {len(scene) for scene in of_split} == {2, 3}
        assert 0.2 < np.mean(twins) < 0.4
        for scene in of_split:
            assert [shape.place for shape in scene] == sorted({shape.place for shape in scene})
            assert len({shape.combination for shape in scene}) >= 2


def test_training_says_nothing_of_held_out_combinations(scenes):
    texts = [
        text for kind in KINDS_OF_TEXT for _, p in pairs_of(scenes["train"], kind) for text in p
    ]
    assert not [text for text in texts if any(CLASS_NAMES[i] in text for i in NOVEL)]


def test_texts_of_a_scene():
    ring, cross = CLASS_NAMES.index("green ring"), CLASS_NAMES.index("red cross")
    scene = tuple(
        Shape(place, 0, *divmod(index, 8)) for place, index in ((0, ring), (2, ring), (3, cross))
    )
    rng = np.random.default_rng(0)
    relations = {
        pair.text for _ in range(60) for pair in shapes_relations.relation_pairs(scene, rng)
    }
    # Not "left of" alone: the cross is lower than one ring, and no ring is lower than the cross.
    assert relations == {
        "a green ring left of a red cross",
        "a red cross right of a green ring",
        "a green ring higher than a red cross",
        "a red cross lower than a green ring",
    }
    counts = {shapes_relations.count_pairs(scene, rng)[0] for _ in range(20)}
    assert counts == {
        ("two green rings and a red cross", "a green ring and two red crosses"),
        ("a red cross and two green rings", "two red crosses and a green ring"),
    }


def test_records(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_relations.ShapesRelations, "counts", {"train": 12})
    shapes_relations.ShapesRelations(data_dir=str(tmp_path)).download_and_prepare()
    source = tfds_source("shapes_relations", "train", str(tmp_path))
    negations = 0
    for record in map(source.__getitem__, range(12)):
        fields, captions = record["fields"], record["captions"]
        negation = [" and no " in text for text in captions]
        negations += sum(negation)
        assert len(captions) == len(fields["negatives"]) >= 2
        for texts, wanted in (("texts", captions), ("foils", fields["negatives"])):
            kinds = KINDS_OF_TEXT[: 2 + any(negation)]
            of_kinds = [text for kind in kinds for text in listed(fields[f"{kind}_{texts}"])]
            assert sorted(of_kinds) == sorted(wanted)
    assert 0 < negations < 12
