"""Zero-shot classification: the class whose name, as a text, suits the image best."""

import functools
import sys
from collections import Counter
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
MOST_NAMED = 5  # classes in a message
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
    first, same = distinct_prompts(handle, class_names, templates)
    classes = class_embeddings(handle, [class_names[i] for i in first], templates)
    scores = (examples.images @ classes.T)[:, same]
    return judge(scores, examples.labels, class_names, examples.bad_images, same)


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
    first, same = distinct_prompts(handle, class_names, templates)
    texts = _prompts([class_names[i] for i in first], templates)
    scores, labels, bad = [], [], 0
    for batch in batches:
        nats = np.asarray(handle.log_probabilities(batch["image"], texts))
        nats = nats.reshape(len(nats), len(first), len(templates))
        scores.append(np.logaddexp.reduce(nats, axis=-1)[:, same])
        labels.append(np.asarray(batch["label"]))
        bad += batch.get("bad_image", 0)
    if not scores:
        raise UserError("the data set to evaluate on has no examples; check its split and limit")
    return judge(np.concatenate(scores), np.concatenate(labels), class_names, bad, same)


def distinct_prompts(
    handle: Handle, class_names: Sequence[str], templates: Sequence[str]
) -> tuple[Int[np.ndarray, "u"], Int[np.ndarray, "c"]]:
    """Finds classes of one name, but for case and white space, whose prompts have the same tokens.

    A model cannot tell these apart. (Tokens alone do not say so: prompts may be cut off.)

    Returns:
      The first class of each kind of prompts, and for each class the place of its kind among these.
    """
    names = [" ".join(name.casefold().split()) for name in class_names]
    keys: list[Any] = names
    if len({*names}) < len(names):
        ids = handle.tokenize(_prompts(class_names, templates)).reshape(len(names), -1)
        keys = [(name, row.tobytes()) for name, row in zip(names, ids, strict=True)]
    kinds = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    same = np.array([kinds[key] for key in keys], np.int64)
    return np.unique(same, return_index=True)[1], same


def _prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    return [template.replace("{}", name) for name in class_names for template in templates]


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
    same: Int[np.ndarray, "c"] | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics, every class's accuracy and confusion of the examples that have a label.

    Args:
      scores: of each class for each example.
      labels: of each example; negative: none.
      class_names: of the classes, which may have one name.
      bad_images: how many could not be read.
      same: equal for classes that cannot be told apart (`accuracies`).

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
    right = _ranks(scores, labels, same) == 0
    predictions = np.where(right, labels, scores.argmax(axis=1))
    class_names = unique_names(class_names)
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
    return metrics | {"bad_images": float(bad_images)}, artefacts


def unique_names(class_names: Sequence[str]) -> list[str]:
    """The names, with the numbers of the classes behind those that several have, which it says."""
    counts = Counter(class_names)
    unique = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(class_names)]
    repeated = [name for old, name in zip(class_names, unique, strict=True) if counts[old] > 1]
    if repeated:
        _warn_once(
            "warning: names of classes are there more than once, each time for a class of its own: "
            + ", ".join(repeated[:MOST_NAMED])
            + ", ..." * (len(repeated) > MOST_NAMED)
        )
    return unique


@functools.cache
def _warn_once(text: str) -> None:
    """Says it once in a process, however often a run is evaluated."""
    print(text, file=sys.stderr)


def class_embeddings(
    handle: Handle, class_names: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "c e"]:
    """Returns one unit vector a class: the mean of its prompts' embeddings, as in CLIP.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4, ensembling in embedding space.
    """
    texts = _prompts(class_names, templates)
    embeddings = embed_texts(handle, texts).reshape(len(class_names), len(templates), -1)
    means = embeddings.mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def accuracies(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n"],
    same: Int[np.ndarray, "c"] | None = None,
) -> dict[str, float]:
    """Returns top-1, top-5 and mean per-class accuracy; a tie, and NaN, count against the label.

    A tie of classes with equal numbers in `same` does not: they cannot be told apart.

    The mean per-class accuracy is over the classes that occur among the labels; of no example
    they are undefined.
    """
    if not len(labels):
        none = Undefined("no example has a label")
        return dict.fromkeys(("top1", "top5", "mean_per_class"), none) | {"count": 0.0}
    ranks = _ranks(scores, labels, same)
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


def _ranks(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, "n"],
    same: Int[np.ndarray, "c"] | None,
) -> Int[np.ndarray, "n"]:
    """How many classes do not score lower than the label."""
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)
    rivals = ~(scores < of_label)
    if same is not None:
        rivals &= ~((scores == of_label) & (same == same[labels][:, None]))
    np.put_along_axis(rivals, labels[:, None], False, axis=1)  # it is not its own rival
    return rivals.sum(axis=1)


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
