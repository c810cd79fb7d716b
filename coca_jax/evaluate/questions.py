"""Texts about images: questions, statements and captions in the fields of examples."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from coca_jax.data.answer_normalization import commonest
from coca_jax.data.captions import in_columns
from coca_jax.data.sources.base import is_text
from coca_jax.data.texts import number_as_text
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Model
from coca_jax.evaluate.metrics.vqa_accuracy import text_only_upper_bound
from coca_jax.evaluate.samples import EvenlySpaced, thumbnail
from coca_jax.fields import row, text
from coca_jax.patches import Images, stack

ROWS = 256  # questions at a time
SAMPLES = 24
QUESTIONS = ("questions", "answers")  # the fields, by default
FIELDS = row(text(empty=False), text(empty=False), wanted="the names of two fields")


class Question(NamedTuple):
    """A question about an image and the answers that people gave."""

    image: Any  # uint8 [h, w, 3], or of several images, or `Patches`
    text: str
    given: tuple[str, ...]  # none where nobody has answered, as in a test split
    number: Any = None  # its id in the data set
    answer_type: str = ""  # as the data set has it


def questions_of(batch: dict[str, Any], questions: str, answers: str) -> Iterable[Question]:
    """Yields the questions about a batch's images.

    Args:
      batch: with `fields` of each image.
      questions: name of the field with the questions.
      answers: name of the field with the answers to each; where it is absent, there are none.

    Raises:
      UserError: there are not as many answers as questions.
    """
    for image, fields in zip(batch["image"], batch["fields"], strict=True):
        names = {answers: None, "question_ids": None, "answer_types": ""}
        found, *values_of = in_columns(fields, questions, *names)
        texts = [required_text(questions, value) for value in found]
        columns = []
        for (name, empty), values in zip(names.items(), values_of, strict=True):
            # A record may have other texts, too, which the ids are not of.
            absent = fields.get(name) is None or (name != answers and questions != QUESTIONS[0])
            values = [empty] * len(texts) if absent else values
            if len(values) != len(texts):
                raise UserError(f"{len(texts)} {questions} of an image have {len(values)} {name}")
            columns.append(values)
        for question, answer, number, kind in zip(texts, *columns, strict=True):
            given = () if answer is None else _answers(question, answer)
            yield Question(image, question, given, number, str(kind or "").replace("/", "_"))


def _answers(question: str, answer: Any) -> tuple[str, ...]:
    """The answers that people gave, of a field that has one of them or several."""
    answers = answer if isinstance(answer, list) else [answer]
    if not answers:
        raise UserError(f"the answer to {question!r} is {answer!r}; it should be a text or texts")
    texts = map(number_as_text, answers)
    return tuple(required_text(f"the answer to {question!r}", text) for text in texts)


def required_text(name: str, value: Any) -> str:
    """Returns a value of a field that should be a text, without the white space around it.

    Raises:
      UserError: it is none, or holds half of a surrogate pair.
    """
    if not isinstance(value, str) or not is_text(value):
        raise UserError(f"{name} is {value!r}; it should be a text or texts")
    return value.strip()


def in_parts(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """Yields as many questions at a time as have ROWS images."""
    several = questions and getattr(questions[0].image, "ndim", 3) == 4
    size = max(1, ROWS // (len(questions[0].image) if several else 1))
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def images_and_texts(questions: Sequence[Question]) -> tuple[Images, list[str]]:
    """The questions' images, stacked, and their texts."""
    return stack([question.image for question in questions]), [q.text for q in questions]


def head_scores(model: Model, questions: Sequence[Question]) -> Float[np.ndarray, "n c"]:
    """The head's scores of its classes for each question."""
    return np.asarray(model.classify(*images_and_texts(questions)))


def text_behind(text: str, prompt: str) -> str:
    """The part of a generated text that is not its prompt.

    Args:
      text: as the tokenizer decodes the prompt and what follows.
      prompt: as the tokenizer decodes it alone, which may differ in white space.
    """
    left = len("".join(prompt.split()))
    for place, character in enumerate(text):
        if not left:
            return text[place:].strip()
        left -= not character.isspace()
    return ""


class Answered:
    """The questions that were answered, without their images but for a few, for the report."""

    def __init__(self):
        """Begins without any."""
        self.questions: list[Question] = []
        self.scores: list[float] = []
        self._samples = EvenlySpaced(SAMPLES)

    def add(self, question: Question, answer: str, score: float) -> None:
        """Adds a question that people answered, with the model's answer, right from 0 to 1."""
        self.questions.append(question._replace(image=None))
        self.scores.append(score)
        self._samples.offer(
            lambda: {
                "image": thumbnail(question.image, 128),
                "question": question.text,
                "answer": answer,
                "given": commonest(question.given),
                "accuracy": score,
            }
        )

    def samples(self) -> list[dict[str, Any]]:
        """A few evenly spaced ones, as the report draws them."""
        return self._samples.chosen()

    def text_only_upper_bound(self) -> float:
        """The accuracy that the best answers reach that do not depend on the image."""
        return text_only_upper_bound((q.text, q.given) for q in self.questions)
