"""Zero-shot classification: the class whose name, as a text, suits the image best."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from coca_jax.errors import UserError
from coca_jax.evaluate import prompts
from coca_jax.evaluate.embed import EmbeddedExamples, embed_texts
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.undefined import Undefined

MOST_CLASSES_DRAWN = 64
MOST_CONFUSED = 20  # pairs of more classes than that


def evaluate(
    handle: Handle,
    examples: EmbeddedExamples,
    class_names: Sequence[str],
    templates: Sequence[str] = prompts.DEFAULT,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Classifies the examples that have a label (one that is not negative).

    Returns:
      The metrics; and every class's accuracy, and the confusion counts (of up to 64 classes) or
      what was confused most often.

    Raises:
      UserError: no example has a label, there are no class names, or a label has none.
    """
    _require_names(class_names)
    classes = class_embeddings(handle, class_names, templates)
    return judge(examples.images @ classes.T, examples.labels, class_names, examples.bad_images)


def evaluate_by_captions(
    handle: Handle,
    batches: Iterable[dict[str, Any]],
    class_names: Sequence[str],
    templates: Sequence[str] = prompts.DEFAULT,
) -> tuple[dict[str, float], dict[str, Any]]:
    """The same by the decoder: the class whose prompts it finds most probable as captions.

    Of several templates, the probabilities are added up.

    Raises:
      UserError: there are no examples, none has a label, there are no class names, or a label has
        none.
    """
    _require_names(class_names)
    texts = [t.replace("{}", name) for name in class_names for t in templates]
    scores, labels, bad = [], [], 0
    for batch in batches:
        nats = np.asarray(handle.log_probabilities(batch["image"], texts))
        nats = nats.reshape(len(nats), len(class_names), len(templates))
        scores.append(np.logaddexp.reduce(nats, axis=-1))
        labels.append(np.asarray(batch["label"]))
        bad += batch.get("bad_image", 0)
    if not scores:
        raise UserError("the data set to evaluate on has no examples; check its split and limit")
    return judge(np.concatenate(scores), np.concatenate(labels), class_names, bad)


def _require_names(class_names: Sequence[str]) -> None:
    if not class_names:
        raise UserError(
            "zero-shot classification needs the names of the classes, and the data set has none: "
            "set class_names, a file with a name a line for the labels 0, 1, ..."
        )


def judge(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n"],
    class_names: Sequence[str],
    bad_images: int,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics, every class's accuracy and confusion of the examples that have a label.

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
    predictions = scores.argmax(axis=1)
    artefacts: dict[str, Any] = {
        "per_class": {
            class_names[label]: float((predictions[labels == label] == label).mean())
            for label in np.unique(labels)
        }
    }
    if len(class_names) <= MOST_CLASSES_DRAWN:
        confusion = confusion_counts(predictions, labels, len(class_names))
        artefacts |= {"class_names": list(class_names), "confusion": confusion.tolist()}
    else:
        artefacts["confused"] = most_confused(predictions, labels, class_names)
    return accuracies(scores, labels) | {"bad_images": float(bad_images)}, artefacts


def class_embeddings(
    handle: Handle, class_names: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "c e"]:
    """Returns one unit vector a class: the mean of its prompts' embeddings, as in CLIP.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4, ensembling in embedding space.
    """
    texts = [t.replace("{}", name) for name in class_names for t in templates]
    embeddings = embed_texts(handle, texts).reshape(len(class_names), len(templates), -1)
    means = embeddings.mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def accuracies(scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Returns top-1, top-5 and mean per-class accuracy; a tie, and NaN, count against the label.

    The mean per-class accuracy is over the classes that occur among the labels; of no example
    they are undefined.
    """
    if not len(labels):
        none = Undefined("no example has a label")
        return dict.fromkeys(("top1", "top5", "mean_per_class"), none) | {"count": 0.0}
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)
    ranks = (~(scores < of_label)).sum(axis=1) - 1  # the label itself is not its own rival
    right = ranks == 0
    per_class = [right[labels == label].mean() for label in np.unique(labels)]
    return {
        "top1": float(right.mean()),
        "top5": float((ranks < 5).mean()),
        "mean_per_class": float(np.mean(per_class)),
        "chance_top1": 1 / scores.shape[1],
        "count": float(len(labels)),
    }


def confusion_counts(
    predictions: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Returns how many examples of each label (row) were taken for each class (column)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def most_confused(
    predictions: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"], class_names: Sequence[str]
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
