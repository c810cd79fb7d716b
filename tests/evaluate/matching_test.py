import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import matching

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
    (["both"], ["both"]),  # a tie is not success
]


@pytest.mark.parametrize("scoring", ["embeddings", "captions", "matching"])
def test_the_right_text_scores_higher(fake_model, fake_data, batches, scoring, monkeypatch):
    model = fake_model({0: [1, 0], 1: [3, 1], 2: [1, 0], 3: [0, 1]}, TEXTS)
    if scoring == "captions":  # of the fake's, whose texts are for all images

        def each(self, pixels, texts):
            rows = [self.encode_text(self.tokenize(pair)) for pair in texts]
            return np.einsum("be,bke->bk", self.encode_image(pixels), np.stack(rows))

        monkeypatch.setattr(fake_model, "log_probabilities", each)
    if scoring == "matching":  # undo the fake's sign
        each = fake_model.matching_logits
        monkeypatch.setattr(fake_model, "matching_logits", lambda *args: -each(*args) / 3)
    evaluation = matching.Matching(scoring=scoring)
    metrics, artifacts = evaluation.run(model, fake_data(made(batches, ROWS)))
    # Of image 1, "a cat" beats "a dog", and, being closer to (3, 1), also "both".
    assert metrics["accuracy"] == 2 / 4 and metrics["count"] == 4
    unit = np.array([3, 1]) / np.sqrt(10)
    margins = [1, unit @ [1, -1], unit @ [1, 1] / np.sqrt(2) - unit[0], 0]
    assert metrics["margin"] == pytest.approx(np.mean(margins), abs=1e-6)
    drawn = artifacts["questions"]
    assert [row["answer"] for row in drawn] == ["a cat", "a cat", "a cat", "both"]
    assert [row["accuracy"] for row in drawn] == [1, 1, 0, 0]
    monkeypatch.setattr(matching, "SAMPLES", 2)
    drawn = evaluation.run(model, fake_data(made(batches, ROWS)))[1]["questions"]
    assert [row["accuracy"] for row in drawn] == [1, 0]  # evenly spaced


def test_data_that_cannot_be_matched(fake_model, fake_data, batches):
    model = fake_model({0: [1, 0], 1: [1, 0]}, TEXTS)
    with pytest.raises(UserError, match="2 texts of an image have 1 foils"):
        data = fake_data(made(batches, [(["a cat", "both"], ["a dog"])] * 2))
        matching.Matching().run(model, data)
    with pytest.raises(UserError, match="needs the fields right and wrong"):
        data = fake_data(made(batches, [([], [])] * 2))
        matching.Matching(texts=("right", "wrong")).run(model, data)
