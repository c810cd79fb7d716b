"""What a trained head says: of images, of clips, or of texts about images.

Fine-tuned classification, visual entailment (SNLI-VE) and reasoning about two images (NLVR2) differ
in their data only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from coca_jax.errors import UserError
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.vqa import Question, answer_by_head, blind_accuracy, questions_of, samples
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
    scores, labels, asked, bad = [], [], [], 0
    for batch in batches:
        bad += batch.get("bad_image", 0)
        if not questions:
            scores.append(np.asarray(handle.classify(batch["image"])))
            labels.append(np.asarray(batch["label"]))
            continue
        rows = list(questions_of(batch, *questions))
        if rows:
            scores.append(answer_by_head(handle, rows))
            labels.append(np.array([_number(row, class_names) for row in rows], np.int64))
            asked += rows
    if not scores:
        raise UserError(f"classification needs the fields {', '.join(questions)}; no example has")
    scores, labels = np.concatenate(scores), np.concatenate(labels)
    metrics, artefacts = judge(scores, labels, class_names, bad)
    if not asked:
        commonest = np.bincount(labels[labels >= 0]).max() / max(1, (labels >= 0).sum())
        return metrics | {"blind": float(commonest)}, artefacts
    found = [class_names[i] for i in scores.argmax(axis=1)]
    right = (scores.argmax(axis=1) == labels).astype(float).tolist()
    artefacts |= {"questions": samples(asked, found, right)}
    return metrics | {"blind": blind_accuracy(asked)}, artefacts


def _number(question: Question, class_names: Sequence[str]) -> int:
    if question.given[0] not in class_names:
        raise UserError(
            f"the answer {question.given[0]!r} to {question.text!r} is none of the head's classes "
            f"{', '.join(class_names)}"
        )
    return class_names.index(question.given[0])
