import numpy as np
import pytest

from coca_jax.evaluate.metrics import accuracy


def test_accuracies_by_hand():
    scores = np.array(
        [
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 0: first
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 4: fourth
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 2: sixth
            [0.0, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 0: last
        ]
    )
    metrics = accuracy.accuracies(scores, np.array([0, 4, 2, 0]))
    assert metrics["top1"] == 0.25
    assert metrics["top5"] == 0.5
    assert metrics["mean_per_class"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert metrics["chance_top1"] == pytest.approx(1 / 7)
    assert metrics["count"] == 4


def test_a_tie_counts_against_the_label():
    assert accuracy.accuracies(np.ones((2, 3)), np.array([0, 2]))["top1"] == 0


def test_a_tie_of_classes_that_cannot_be_told_apart_does_not_count():
    scores = np.array([[0.5, 0.9, 0.5, 0.9], [0.9, 0.5, 0.9, 0.5], [0.5, 0.9, 0.9, 0.5]])
    same = np.array([0, 1, 2, 1])
    # The second example's label 0 ties with class 2, which is another one.
    metrics = accuracy.accuracies(scores, np.array([3, 0, 2]), same)
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["chance_top1"] == pytest.approx((2 + 1 + 1) / 3 / 4)
    nowhere = accuracy.accuracies(np.full((2, 6), np.nan), np.array([0, 5]), np.zeros(6, np.int64))
    assert nowhere["top1"] == nowhere["top5"] == 0


def test_nan_counts_against_the_label():
    found = accuracy.accuracies(np.full((2, 9), np.nan), np.array([0, 2]))
    assert found["top1"] == found["top5"] == 0


def test_predictions_are_wrong_where_top1_is():
    nan, inf = np.nan, np.inf
    scores = np.array(
        [[1, 1, 0], [nan, nan, nan], [nan, 1, 2], [-inf, -inf, -inf], [0, 2, 1], [5, 0, 0]]
    )
    labels = np.array([0, 0, 0, 0, 2, 0])
    metrics, artifacts = accuracy.classification_metrics(scores, labels, list("abc"), 0)
    assert metrics["top1"] == pytest.approx(1 / 6)
    assert artifacts["per_class"] == {"a": 0.2, "c": 0.0}
    assert artifacts["confusion"] == [[1, 3, 1], [0, 0, 0], [0, 1, 0]]
    same = accuracy.classification_metrics(
        scores[:1], labels[:1], list("abc"), 0, np.array([0, 0, 1])
    )
    assert same[0]["top1"] == same[1]["per_class"]["a"] == 1


def test_confusion_counts_have_the_label_as_the_row():
    counts = accuracy.confusion_counts(np.array([1, 1, 0, 1]), np.array([0, 0, 0, 1]), 2)
    assert counts.tolist() == [[1, 2], [0, 1]]


def test_of_many_classes_the_most_confused_are_named(monkeypatch):
    monkeypatch.setattr(accuracy, "MOST_CLASSES_DRAWN", 2)
    scores, labels = np.eye(3)[[0, 1, 1, 2, 2, 2]], np.array([0, 0, 0, 1, 2, 2])
    artifacts = accuracy.classification_metrics(scores, labels, ["cat", "dog", "cow"], 0)[1]
    assert "confusion" not in artifacts
    assert artifacts["confused"] == [
        {"label": "cat", "prediction": "dog", "count": 2, "of": 3},
        {"label": "dog", "prediction": "cow", "count": 1, "of": 1},
    ]
