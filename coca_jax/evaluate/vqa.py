"""Questions about images, answered by the decoder, written or chosen, or by a head's classes."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from coca_jax.data.answer_normalization import commonest
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.generation import Generation
from coca_jax.evaluate.metrics.undefined import Undefined
from coca_jax.evaluate.metrics.vqa_accuracy import ANSWER_TYPES, answer_type, vqa_accuracy
from coca_jax.evaluate.questions import (
    FIELDS,
    QUESTIONS,
    Answered,
    Question,
    head_scores,
    images_and_texts,
    in_parts,
    questions_of,
    text_behind,
)
from coca_jax.fields import choice, either, field, nothing, path, several, text
from coca_jax.inference.texts import prompt_rows
from coca_jax.io.files import read_lines
from coca_jax.io.messages import counted

CANDIDATES = dataclasses.replace(
    either(nothing(), several(text(empty=False)), path()),
    description="texts, or a file of them",
)


@dataclasses.dataclass(frozen=True)
class VQA(Generation):
    """Asks every question of every image.

    The examples' `fields` have questions and answers: for each question one answer, or the list of
    those that people gave. A field of answers may be absent. Next to `questions` there may be as
    many `question_ids` and `answer_types`.
    """

    reads_text = True

    scoring: str = field(
        "generation",
        "Whether answers are generated, chosen from candidates by their probability, or classes "
        "of a head.",
        choice("generation", "candidates", "head"),
    )
    candidates: Sequence[str] | str | None = field(
        None,
        "The answers to choose from, or a file with an answer a line; None: the commonest answer "
        "to each question of the examples.",
        CANDIDATES,
    )
    questions: Sequence[str] = field(
        QUESTIONS, "Names of the fields with the questions and with their answers.", FIELDS
    )

    @property
    def requires(self) -> str:
        """The loss that trains what answers."""
        return "classification" if self.scoring == "head" else "captioning"

    @property
    def several_images(self) -> bool:
        """A head may read several images; the decoder reads one."""
        return self.scoring == "head"

    def errors(self) -> Iterator[str]:
        """Messages about how texts are generated, candidates, and options of another `scoring`."""
        yield from super().errors()
        unused = {} if self.scoring == "generation" else self.caption_options
        if self.candidates and self.scoring != "candidates":
            unused["candidates"] = self.candidates
        for name, value in unused.items():
            yield f"{name}={value!r} has no effect: scoring={self.scoring!r}"
        if "candidates" in unused:
            return
        try:
            _ = isinstance(self.candidates, str) and self.candidates and read_lines(self.candidates)
        except UserError as error:
            yield f"candidates={self.candidates!r}: {error}"

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Answers all questions.

        Returns:
          Of the questions that people answered, the accuracy (`vqa_accuracy`), also by type of
          answer, and `text_only_upper_bound`; the number of other questions (`unanswered`); and
          that of questions that leave the decoder no room for an answer (`too_long`), to which the
          answer is "". For the report, some questions with their answers; and `files`: the answers
          to all questions that have an id, as the VQA challenge takes them (`results`).

        Raises:
          UserError: there are no questions, or not as many answers, or one that is not text; or an
            id is that of two questions, or of one with two lists of answers.
        """
        candidates = self._candidates(data) if self.scoring == "candidates" else ()
        answered, results, bad, too_long, once = Answered(), [], 0, 0, _Once()
        for batch in data.batches():
            bad += batch.get("bad_image", 0)
            for part in in_parts(list(filter(once, questions_of(batch, *self.questions)))):
                answers = self._answers(model, part, candidates, data.head_classes)
                too_long += answers.count(None)
                for question, found in zip(part, answers, strict=True):
                    answer = found or ""
                    results.append({"question_id": question.number, "answer": answer})
                    if question.given:
                        answered.add(question, answer, vqa_accuracy(answer, question.given))
        once.warn()
        numbered = [result for result in results if result["question_id"] is not None]
        self._require_use(results, answered.questions or numbered)
        metrics = _metrics(answered) | {"count": float(len(answered.questions))}
        if len(answered.questions) < len(results):
            metrics["unanswered"] = float(len(results) - len(answered.questions))
        if too_long:
            metrics["too_long"] = float(too_long)
        metrics["bad_images"] = float(bad)
        files = {"results": numbered} if numbered else {}
        return metrics, {"questions": answered.samples(), "files": files}

    def _candidates(self, data: EvaluationData) -> Sequence[str]:
        if isinstance(self.candidates, str) and self.candidates:
            return read_lines(self.candidates)
        return self.candidates or all_answers(data.batches(), self.questions)

    def _answers(
        self,
        model: Model,
        questions: Sequence[Question],
        candidates: Sequence[str],
        classes: Sequence[str],
    ) -> list[str | None]:
        """The answers; None to a question that leaves the decoder no room for one."""
        if self.scoring == "head":
            return [classes[i] for i in head_scores(model, questions).argmax(axis=1)]
        limit = model.tokenize([""]).shape[1]
        rows = prompt_rows(model.tokenizer, [question.text for question in questions], limit)
        if self.scoring == "generation":
            limit = min(limit, self.length or limit)
        fits = [len(row) < limit for row in rows]
        asked = [question for question, fit in zip(questions, fits, strict=True) if fit]
        answers = iter(self._decoded(model, asked, candidates) if asked else ())
        return [next(answers) if fit else None for fit in fits]

    def _decoded(
        self, model: Model, questions: Sequence[Question], candidates: Sequence[str]
    ) -> list[str]:
        pixels, prompts = images_and_texts(questions)
        if self.scoring == "candidates":
            nats = np.asarray(model.log_probabilities(pixels, candidates, prompt=prompts))
            return [candidates[i] for i in nats.argmax(axis=1)]
        captions = model.caption(pixels, prompt=prompts, **self.caption_options)
        spelled = model.tokenizer.decode(model.tokenize(prompts))
        return [text_behind(c.text, prompt) for c, prompt in zip(captions, spelled, strict=True)]

    def _require_use(self, results: Sequence[Any], used: Sequence[Any]) -> None:
        questions, answers = self.questions
        if not results:
            raise UserError(f"vqa needs questions, and no example has the field {questions}")
        if not used:
            raise UserError(
                f"no example has the field {answers}, nor question_ids to answer under: nothing "
                "would be left of these answers"
            )


class _Once:
    """Lets the questions of an id pass once: result files have no id twice."""

    def __init__(self):
        self._seen: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._repeated = 0

    def __call__(self, question: Question) -> bool:
        if question.number is None:
            return True
        own = (question.text, question.given)
        first = self._seen.setdefault(str(question.number), own)
        if first != own:
            raise UserError(
                f"question {question.number} is duplicated: {first[0]!r} with the answers "
                f"{[*first[1]]}, and {own[0]!r} with {[*own[1]]}; all answers to a question "
                "belong in one record"
            )
        self._repeated += first is not own
        return first is own

    def warn(self) -> None:
        """Says on stderr how many were stopped."""
        if self._repeated:
            repeated = counted(self._repeated, "questions are repeated")
            print(f"warning: {repeated}, and asked once", file=sys.stderr)


def all_answers(batches: Iterable[dict[str, Any]], questions: Sequence[str]) -> list[str]:
    """Returns the commonest answer to each question, once, in order: candidates for these examples.

    Args:
      batches: of images, with `fields`.
      questions: names of the fields with the questions and with their answers.

    Raises:
      UserError: there are none.
    """
    given = (q.given for batch in batches for q in questions_of(batch, *questions))
    if not (answers := sorted({commonest(one) for one in given if one})):
        raise UserError("no question has an answer that could be a candidate: set `candidates`")
    return answers


def _metrics(answered: Answered) -> dict[str, float]:
    questions, scores = answered.questions, answered.scores
    if not questions:
        none = Undefined("no question has an answer")
        return dict.fromkeys(("accuracy", "text_only_upper_bound"), none)
    by_type: dict[str, list[float]] = {name: [] for name in ANSWER_TYPES}
    for question, score in zip(questions, scores, strict=True):
        name = question.answer_type or answer_type(question.given)
        by_type.setdefault(name, []).append(score)
    metrics = {"accuracy": float(np.mean(scores))}
    metrics["text_only_upper_bound"] = answered.text_only_upper_bound()
    return metrics | {f"accuracy_{k}": float(np.mean(of)) for k, of in by_type.items() if of}
