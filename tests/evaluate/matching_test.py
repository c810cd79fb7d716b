import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate import matching
from coca_jax.evaluate.runner import takes_frames

TEXTS = {"a cat": [1, 0], "a dog": [0, 1], "both": [1, 1]}


def made(batches, rows, names=("texts", "foils")):
    found = list(batches([[]] * len(rows), [-1] * len(rows), [2] * (len(rows) // 2)))
    fields = iter(rows)
    for batch in found:
        batch["fields"] = [dict(zip(names, next(fields), strict=True)) for _ in batch["image"]]
    return found


ROWS = [
    ("a cat", "a dog"),  # TFDS gives the only one of a list by itself
    (["a cat", "both"], ["a dog", "a cat"]),
    ([], []),
    (["both"], ["both"]),  # a tie is no success
]


@pytest.mark.parametrize("by", ["embeddings", "captions"])
def test_the_right_text_scores_higher(fake_handle, batches, by, monkeypatch):
    handle = fake_handle({0: [1, 0], 1: [3, 1], 2: [1, 0], 3: [0, 1]}, TEXTS)
    if by == "captions":  # of the fake's, whose texts are for all images

        def each(self, pixels, texts):
            rows = [self.encode_text(self.tokenize(pair)) for pair in texts]
            return np.einsum("be,bke->bk", self.encode_image(pixels), np.stack(rows))

        monkeypatch.setattr(fake_handle, "log_probabilities", each)
    metrics, artefacts = matching.evaluate(handle, made(batches, ROWS), by)
    # Of image 1, "a cat" beats "a dog", and, being closer to (3, 1), also "both".
    assert metrics["accuracy"] == 2 / 4 and metrics["count"] == 4
    unit = np.array([3, 1]) / np.sqrt(10)
    margins = [1, unit @ [1, -1], unit @ [1, 1] / np.sqrt(2) - unit[0], 0]
    assert metrics["margin"] == pytest.approx(np.mean(margins), abs=1e-6)
    drawn = artefacts["questions"]
    assert [row["answer"] for row in drawn] == ["a cat", "a cat", "a cat", "both"]
    assert [row["accuracy"] for row in drawn] == [1, 1, 0, 0]
    monkeypatch.setattr(matching, "SAMPLES", 2)
    drawn = matching.evaluate(handle, made(batches, ROWS), by)[1]["questions"]
    assert [row["accuracy"] for row in drawn] == [1, 0]  # evenly spaced


def test_mistakes_of_the_data(fake_handle, batches):
    handle = fake_handle({0: [1, 0], 1: [1, 0]}, TEXTS)
    with pytest.raises(UserError, match="2 texts of an image have 1 foils"):
        matching.evaluate(handle, made(batches, [(["a cat", "both"], ["a dog"])] * 2))
    with pytest.raises(UserError, match="needs the fields right and wrong"):
        matching.evaluate(handle, made(batches, [([], [])] * 2), texts=("right", "wrong"))


def test_which_evaluations_take_clips():
    for kind, by, takes in [
        ("matching", "embeddings", True),
        ("matching", "captions", False),
        ("retrieval", "embeddings", True),
        ("vqa", "generation", False),
        ("vqa", "head", True),
        ("classification", "embeddings", True),
        ("captioning", "embeddings", False),
    ]:
        assert takes_frames(ConfigDict({"kind": kind, "by": by})) == takes, (kind, by)
