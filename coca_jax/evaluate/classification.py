"""What a trained head says: of images, of clips, or of texts about images.

Fine-tuned classification, visual entailment (SNLI-VE) and reasoning about two images (NLVR2) differ
in their data only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from coca_jax.errors import UserError
from coca_jax.evaluate.evenly_spaced import EvenlySpaced
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.vqa import (
    SAMPLES,
    Question,
    answer_by_head,
    blind_accuracy,
    in_parts,
    keep,
    questions_of,
)
from coca_jax.evaluate.zero_shot import judge


def evaluate(
    handle: Handle,
    batches: Iterable[dict[str, Any]],
    class_names: Sequence[str],
    questions: Sequence[str] = (),
) -> tuple[dict[str, float], dict[str, Any]]:
    """Classifies every example that has a label, or every text about one.

    Args:
      handle: a model with a head.
      batches: of images with labels, or with `fields` that have texts and right answers.
      class_names: of the head's classes.
      questions: names of these two fields; none: the head reads images alone.

    Returns:
      Accuracies as of zero-shot classification, and what is reached without the images (`blind`,
      see `vqa.blind_accuracy`); for the report the confusion counts and some texts with answers.

    Raises:
      UserError: no example has a label, or an answer is none of the classes; or the head reads
        texts, and `questions` does not say where they are.
    """
    scores, labels, asked, bad, drawn = [], [], [], 0, EvenlySpaced(SAMPLES)
    for batch in batches:
        bad += batch.get("bad_image", 0)
        if not questions:
            scores.append(np.asarray(handle.classify(batch["image"])))
            labels.append(np.asarray(batch["label"]))
            continue
        for rows in in_parts(list(questions_of(batch, *questions))):
            scores.append(answer_by_head(handle, rows))
            labels.append(np.array([_number(row, class_names) for row in rows], np.int64))
            best = scores[-1].argmax(axis=1)
            right, found = (best == labels[-1]).astype(float), [class_names[i] for i in best]
            asked += keep(rows, found, right.tolist(), drawn)
    if not scores:
        raise UserError(f"no example has {' and '.join(questions) or 'an image'} to be classified")
    metrics, artefacts = judge(np.concatenate(scores), np.concatenate(labels), class_names, bad)
    if asked:
        blind, artefacts["questions"] = blind_accuracy(asked), drawn.chosen()
    else:
        known = np.concatenate(labels)
        blind = np.bincount(known[known >= 0]).max() / (known >= 0).sum()
    return metrics | {"blind": float(blind)}, artefacts


def _number(question: Question, class_names: Sequence[str]) -> int:
    if not question.given:
        raise UserError(f"there is no answer to {question.text!r}")
    if question.given[0] not in class_names:
        raise UserError(
            f"the answer {question.given[0]!r} to {question.text!r} is none of the head's classes "
            f"{', '.join(class_names)}"
        )
    return class_names.index(question.given[0])
