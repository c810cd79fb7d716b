import numpy as np
import pytest

from coca_jax.data.builders import shapes_pairs
from coca_jax.data.builders.shapes import COLOURS, KINDS, Shape
from coca_jax.data.sources.tfds import tfds_source


def scene(*names):
    colours, kinds = list(COLOURS), list(KINDS)
    pairs = [name.split() for name in names]
    return tuple(Shape(i, 0, colours.index(c), kinds.index(k)) for i, (c, k) in enumerate(pairs))


LEFT, RIGHT = scene("red circle", "blue star"), scene("blue ring")
TRUE = {
    "both show a blue one",
    "only the left shows a red one",
    "only the left shows a circle",
    "only the left shows a star",
    "only the right shows a ring",
    "the left shows more",
}


def test_what_is_true_of_a_pair():
    found = {s.text for s in shapes_pairs.STATEMENTS if s.holds(LEFT, RIGHT)}
    assert found == TRUE
    swapped = {s.text for s in shapes_pairs.STATEMENTS if s.holds(RIGHT, LEFT)}
    assert swapped == {
        t.replace("left", "?").replace("right", "left").replace("?", "right") for t in TRUE
    }
    same = {s.text for s in shapes_pairs.STATEMENTS if s.holds(LEFT, LEFT)}
    assert "both show as many" in same and not any("only" in text for text in same)


def test_half_of_the_statements_are_true_whatever_they_say():
    rng = np.random.default_rng(0)
    pairs = [shapes_pairs.sample_pair(rng, "train") for _ in range(600)]
    for start in ("both show a", "only the", "the "):
        truths = [truth for *_, text, truth in pairs if text.startswith(start)]
        assert abs(np.mean(truths) - 0.5) < 2 / np.sqrt(len(truths))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_pairs, "COUNTS", {"train": 3, "test": 2, "test_novel": 1})
        builder = shapes_pairs.ShapesPairs(data_dir=folder)
        builder.download_and_prepare()
    return folder


def test_records(folder):
    source = tfds_source("shapes_pairs", "train", folder)
    assert len(source) == 3
    for record in map(source.__getitem__, range(3)):
        assert len(record["image"]) == 2 and record["image"][0] != record["image"][1]
        assert record["fields"]["truths"] in ("true", "false")
        assert record["fields"]["statements"] in {s.text for s in shapes_pairs.STATEMENTS}
