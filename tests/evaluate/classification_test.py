import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate.classification import Classification

NAMES = ("entailment", "neutral", "contradiction")
FIELDS = ("hypotheses", "judgements")


def evaluate(fake_data, model, batches, questions=FIELDS):
    return Classification(questions=questions).run(model, fake_data(batches, head_classes=NAMES))


def test_images_by_their_labels(fake_model, fake_data, batches):
    model = fake_model({}, {"x": [1]}, classes={0: 0, 1: 2, 2: 1, 3: 1})
    made = batches([[]] * 4, [0, 1, 1, -1], [3, 1])
    metrics, artifacts = evaluate(fake_data, model, made, None)
    assert metrics["top1"] == pytest.approx(2 / 3) and metrics["count"] == 3
    assert metrics["text_only_upper_bound"] == pytest.approx(2 / 3)  # "neutral" of all
    assert artifacts["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert artifacts["per_class"] == {"entailment": 1.0, "neutral": 0.5}
    assert model.classified == ""


def texts(batches, rows, fields=FIELDS):
    made = list(batches([[]] * len(rows), [-1] * len(rows), [1] * len(rows)))
    for batch, row in zip(made, rows, strict=True):
        batch["fields"] = [dict(zip(fields, map(list, zip(*row, strict=True)), strict=True))]
    return made


def test_texts_about_images(fake_model, fake_data, batches):
    rows = [
        [("a cat", "entailment"), ("a dog", "contradiction")],
        [("a cat", "neutral")],
        [("a cat", "entailment")],
    ]
    found = {(0, "a cat"): 0, (0, "a dog"): 2, (1, "a cat"): 0, (2, "a cat"): 0}
    model = fake_model({}, {"x": [1]}, classes=found)
    made = texts(batches, rows)
    metrics, artifacts = evaluate(fake_data, model, made)
    assert metrics["top1"] == 3 / 4 and metrics["count"] == 4
    assert (
        metrics["text_only_upper_bound"] == 3 / 4
    )  # a cat: entailment, twice of three; a dog: always right
    wrong = [row for row in artifacts["questions"] if row["accuracy"] < 1]
    assert [(row["question"], row["answer"], row["given"]) for row in wrong] == [
        ("a cat", "entailment", "neutral")
    ]


def test_pairs_of_images_are_drawn_side_by_side(fake_model, fake_data, batches):
    rows = [[("both are cats", "entailment")]]
    model = fake_model({}, {"x": [1]}, classes={(0, "both are cats"): 0})
    made = texts(batches, rows)
    made[0]["image"] = np.zeros((1, 2, 8, 12, 3), np.uint8)
    metrics, artifacts = evaluate(fake_data, model, made)
    assert metrics["top1"] == 1 and artifacts["questions"][0]["image"][:2] == b"\xff\xd8"


def test_data_that_cannot_be_classified(fake_model, fake_data, batches):
    model = fake_model({}, {"x": [1]}, classes={0: 0, (0, "a"): 0})
    with pytest.raises(UserError, match=r"'maybe' to 'a' is none of the head's classes entail"):
        evaluate(fake_data, model, texts(batches, [[("a", "maybe")]]))
    made = list(batches([[]], [-1], [1]))
    made[0]["fields"] = [{}]
    with pytest.raises(UserError, match="no example has hypotheses and judgements"):
        evaluate(fake_data, model, made)
    with pytest.raises(UserError, match="no example has one"):
        evaluate(fake_data, model, made, None)
