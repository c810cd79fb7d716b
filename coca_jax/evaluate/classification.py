"""Classification by a trained head: of images, of clips, or of texts about images.

Fine-tuned classification, visual entailment (SNLI-VE) and reasoning about two images (NLVR2) differ
in their data only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from coca_jax.data.from_config import check_classes
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.metrics.accuracy import classification_metrics
from coca_jax.evaluate.questions import (
    FIELDS,
    Answered,
    Question,
    head_scores,
    in_parts,
    questions_of,
)
from coca_jax.fields import either, field, nothing


@dataclasses.dataclass(frozen=True)
class Classification(Evaluation):
    """Classifies every example that has a label, or every text about one."""

    requires = "classification"
    several_images = True

    questions: Sequence[str] | None = field(
        None,
        "Names of the fields with the texts that the head reads and with their right answers; "
        "None: the head reads images alone.",
        either(nothing(), FIELDS),
    )

    @property
    def reads_text(self) -> bool:
        """Whether the head reads texts."""
        return self.questions is not None

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Classifies all examples.

        Returns:
          Accuracies as of zero-shot classification, and the accuracy that can be reached without
          the images (`text_only_upper_bound`); for the report the confusion counts and some texts
          with answers.

        Raises:
          UserError: no example has a label, or an answer is none of the classes.
        """
        return self._texts(model, data) if self.questions else self._images(model, data)

    def _images(self, model: Model, data: EvaluationData) -> Results:
        check_classes("its data", data.class_names, data.head_classes)
        scores, labels, bad = [], [], 0
        for batch in data.labeled_batches(data.class_names or data.head_classes):
            bad += batch.get("bad_image", 0)
            scores.append(np.asarray(model.classify(batch["image"])))
            labels.append(np.asarray(batch["label"]))
        if not scores:
            raise UserError("no example has an image to be classified")
        labels = np.concatenate(labels)
        metrics, artifacts = classification_metrics(
            np.concatenate(scores), labels, data.head_classes, bad
        )
        bound = np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum()
        return metrics | {"text_only_upper_bound": float(bound)}, artifacts

    def _texts(self, model: Model, data: EvaluationData) -> Results:
        class_names, scores, labels, bad = data.head_classes, [], [], 0
        answered = Answered()
        for batch in data.batches():
            bad += batch.get("bad_image", 0)
            for part in in_parts(list(questions_of(batch, *self.questions))):
                scores.append(head_scores(model, part))
                labels += [_number(question, class_names) for question in part]
                best = scores[-1].argmax(axis=1)
                right = (best == labels[-len(part) :]).astype(float).tolist()
                for question, number, score in zip(part, best, right, strict=True):
                    answered.add(question, class_names[number], score)
        if not scores:
            fields = " and ".join(self.questions)
            raise UserError(f"no example has {fields} to be classified")
        metrics, artifacts = classification_metrics(
            np.concatenate(scores), np.array(labels, np.int64), class_names, bad
        )
        artifacts["questions"] = answered.samples()
        return metrics | {"text_only_upper_bound": answered.text_only_upper_bound()}, artifacts


def _number(question: Question, class_names: Sequence[str]) -> int:
    if not question.given:
        raise UserError(f"there is no answer to {question.text!r}")
    if question.given[0] not in class_names:
        raise UserError(
            f"the answer {question.given[0]!r} to {question.text!r} is none of the head's classes "
            f"{', '.join(class_names)}"
        )
    return class_names.index(question.given[0])
