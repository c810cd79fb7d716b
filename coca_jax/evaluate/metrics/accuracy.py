"""Accuracies of classification, and which classes were confused."""

import functools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.metrics.undefined import Undefined

MOST_CLASSES_DRAWN = 64
MOST_NAMED = 5  # classes in a message
MOST_CONFUSED = 20  # pairs that are listed where there are too many classes to draw


def classification_metrics(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
    bad_images: int,
    same: Int[np.ndarray, " c"] | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores the examples that have a label.

    Args:
      scores: of each class for each example.
      labels: of each example; negative: none.
      class_names: of the classes; several may have one name.
      bad_images: the number of images that could not be read.
      same: equal numbers for classes that cannot be distinguished (`accuracies`).

    Returns:
      The `accuracies` and `bad_images`; and for the report every class's accuracy, with the
      confusion counts (of up to 64 classes) or the pairs that were confused most often.

    Raises:
      UserError: no example has a label, or a label has no class name.
    """
    scores, labels = scores[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise UserError("classification needs labels, and no example has one (>= 0)")
    if labels.max() >= len(class_names):
        raise UserError(
            f"label {labels.max()} has no class name: there are {len(class_names)} names, "
            f"for labels 0 to {len(class_names) - 1}"
        )
    metrics = accuracies(scores, labels, same)
    # Of a wrong example the best rival, which after a tie or NaN `argmax` alone may not find.
    rivals = _rivals(scores, labels, same)
    best = np.where(rivals, np.nan_to_num(scores), -np.inf).argmax(axis=1)
    predictions = np.where(rivals.any(axis=1), best, labels)
    artifacts = _confusions(predictions, labels, unique_names(class_names))
    return metrics | {"bad_images": float(bad_images)}, artifacts


def _confusions(
    predictions: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> dict[str, Any]:
    artifacts: dict[str, Any] = {
        "per_class": {
            class_names[label]: float((predictions[labels == label] == label).mean())
            for label in np.unique(labels)
        }
    }
    if len(class_names) > MOST_CLASSES_DRAWN:
        return artifacts | {"confused": most_confused(predictions, labels, class_names)}
    confusion = confusion_counts(predictions, labels, len(class_names))
    return artifacts | {"class_names": list(class_names), "confusion": confusion.tolist()}


def unique_names(class_names: Sequence[str]) -> list[str]:
    """Returns the names; duplicates get their class's number appended, and cause a warning."""
    counts = Counter(class_names)
    unique = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(class_names)]
    repeated = [name for old, name in zip(class_names, unique, strict=True) if counts[old] > 1]
    if repeated:
        _warn_once(
            "warning: several classes have the same name, and are kept as separate classes: "
            + ", ".join(repeated[:MOST_NAMED])
            + ", ..." * (len(repeated) > MOST_NAMED)
        )
    return unique


@functools.cache
def _warn_once(text: str) -> None:
    """Prints a warning once per process, however often a run is evaluated."""
    print(text, file=sys.stderr)


def accuracies(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    same: Int[np.ndarray, " c"] | None = None,
) -> dict[str, float]:
    """Returns top-1, top-5 and mean per-class accuracy; a tie, and NaN, count against the label.

    A tie of classes with equal numbers in `same` does not count against it, because they cannot be
    distinguished. The mean per-class accuracy is over the classes that occur among the labels.
    Without examples, all three are undefined.
    """
    if not len(labels):
        none = Undefined("no example has a label")
        return dict.fromkeys(("top1", "top5", "mean_per_class"), none) | {"count": 0.0}
    ranks = _rivals(scores, labels, same).sum(axis=1)  # the label's, from 0
    right = ranks == 0
    alike = 1 if same is None else np.bincount(same)[same[labels]]
    per_class = [right[labels == label].mean() for label in np.unique(labels)]
    return {
        "top1": float(right.mean()),
        "top5": float((ranks < 5).mean()),
        "mean_per_class": float(np.mean(per_class)),
        "chance_top1": float(np.mean(alike)) / scores.shape[1],
        "count": float(len(labels)),
    }


def _rivals(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " n"],
    same: Int[np.ndarray, " c"] | None,
) -> Bool[np.ndarray, "n c"]:
    """Which other classes do not score lower than the label."""
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)
    rivals = ~(scores < of_label)
    if same is not None:
        rivals &= ~((scores == of_label) & (same == same[labels][:, None]))
    np.put_along_axis(rivals, labels[:, None], False, axis=1)  # it is not its own rival
    return rivals


def confusion_counts(
    predictions: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Returns how many examples of each label (row) were taken for each class (column)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def most_confused(
    predictions: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the labels that were taken for another class most often, and for which."""
    wrong = predictions != labels
    pairs, counts = np.unique(
        np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True
    )
    of_label = np.bincount(labels)
    return [
        {
            "label": class_names[pairs[0, i]],
            "prediction": class_names[pairs[1, i]],
            "count": int(counts[i]),
            "of": int(of_label[pairs[0, i]]),
        }
        for i in np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
    ]
