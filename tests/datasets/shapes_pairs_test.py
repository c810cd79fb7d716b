import re

import numpy as np
import pytest

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.datasets import shapes, shapes_pairs
from coca_jax.datasets.shapes import COLORS, KINDS


def shows(scene, name):
    """Whether a scene has "a red star", or "a red one"."""
    color, kind = name.split()[1:]
    return any(
        list(COLORS)[shape.color] == color and kind in ("one", list(KINDS)[shape.kind])
        for shape in scene
    )


def holds(left, right, text):
    """By the words alone."""
    numbers = {"the left shows more": 1, "the right shows more": -1, "both show as many": 0}
    if text in numbers:
        return np.sign(len(left) - len(right)) == numbers[text]
    found = re.fullmatch(r"(both|only the (?:left|right)) shows? (an? \w+ \w+)", text)
    here = shows(left, found[2]), shows(right, found[2])
    return here == {"both": (True, True), "only the left": (True, False)}.get(
        found[1], (False, True)
    )


@pytest.mark.parametrize("split", ["train", "test_novel"])
def test_statements_are_as_true_as_is_said_and_half_of_them_are(split):
    rng = np.random.default_rng(0)
    pairs = [shapes_pairs.sample_pair(rng, split) for _ in range(300)]
    for left, right, text, truth in pairs:
        assert holds(left, right, text) == truth
        assert shapes.split_of(left) == shapes.split_of(right) == split
    for part in ("both", "only the left", "only the right", "more", " one"):
        truths = [truth for *_, text, truth in pairs if part in text]
        assert abs(np.mean(truths) - 0.5) < 2 / np.sqrt(len(truths))


def test_training_makes_no_statement_about_held_out_combinations():
    rng = np.random.default_rng(1)
    texts = {shapes_pairs.sample_pair(rng, "train")[2] for _ in range(300)}
    novel = [shapes.CLASS_NAMES[i] for i in shapes.NOVEL]
    assert len(texts) > 60 and not any(name in text for name in novel for text in texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_pairs.ShapesPairs, "counts", {"train": 3, "test": 2, "test_novel": 1})
        builder = shapes_pairs.ShapesPairs(data_dir=folder)
        builder.download_and_prepare()
    return folder


def test_records(folder):
    source = tfds_source("shapes_pairs", "train", folder)
    assert len(source) == 3
    for record in map(source.__getitem__, range(3)):
        assert len(record["image"]) == 2 and record["image"][0] != record["image"][1]
        assert record["fields"]["truths"] in ("true", "false")
        assert "show" in record["fields"]["statements"]
