"""Captions: from what is known of an image to the one text that it is trained with."""

import operator
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Record
from coca_jax.data.texts import is_missing, why_unreadable
from coca_jax.errors import UserError

CHOICES = ("sampled", "first", "all", "none", "questions")
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "in": lambda value, values: value in values,
    "not in": lambda value, values: value not in values,
}


class Text(NamedTuple):
    """What is said of a record, and what a head is asked about it."""

    text: str
    question: str  # the beginning of the text, which a head may read; empty: all of it
    answer: str | int | None  # name or number of a class; None: not known


class CaptionMaker:
    """Makes the caption of a record; a pure function of (record, visit, rng).

    Args:
      captions: "sampled" draws one of the record's captions, "first" takes the first, "all" takes
        them in turn, so that as many visits of an image show each of them once. "none" has no
        text. "questions" draws one of the questions about it with its answer behind it, one of
        several if it has those.
      template: what becomes of it, with the record's fields by name: "{title}. {caption}"; empty:
        the caption as it is.
      prompts: what becomes of the labels of a record without captions; `{}` stands for them, in
        random order and joined by commas, as the paper trains on JFT (arXiv 2205.01917, section
        4.1). Without prompts labels are no text.
      min_characters, max_characters: of the caption; others are left out.
      filters: rows (field, operator, value), one of OPERATORS; records for which one of them does
        not hold, or that lack its field, are left out.
      questions: names of the fields with the questions and with their answers.
      use_labels: whether the answer or the label is known to a head.

    Raises:
      UserError: an option is none of these.
    """

    def __init__(
        self,
        *,
        captions: str = "sampled",
        template: str = "",
        prompts: Sequence[str] = (),
        min_characters: int = 1,
        max_characters: int = 2000,
        filters: Sequence[Sequence[Any]] = (),
        questions: Sequence[str] = ("questions", "answers"),
        use_labels: bool = True,
    ):
        if problems := mistakes(captions, template, prompts, filters, questions):
            raise UserError("\n".join(problems))
        self._captions, self._template, self._prompts = captions, template, tuple(prompts)
        self._least, self._most = min_characters, max_characters
        self._questions, self._labelled = tuple(questions), use_labels
        self._filters = [(field, name, value) for field, name, value in filters]

    def __call__(self, record: Record, visit: int, rng: np.random.Generator) -> Text:
        """The text, and what a head is to say of it.

        Args:
          record: what is known of the image.
          visit: how often the image was drawn before.
          rng: what is left to chance is drawn from it.

        Raises:
          BadExample: there is no text (`bad_text`), or it is left out (`filtered_...`).
        """
        fields = record["fields"]
        for row in self._filters:
            _require(fields, *row)
        if self._captions == "none":
            return self._text("", "", _label(record))
        if self._captions == "questions":
            question, answer = _question(fields, *self._questions, rng)
            return self._text(self._checked(f"{question} {answer}"), question, answer)
        text = self._choose(record, visit, rng)
        if self._template:
            try:
                text = self._template.format_map(_Fields(fields, text))
            except (LookupError, ValueError, TypeError, AttributeError) as error:
                raise BadExample("bad_text", f"{self._template!r} lacks {error}") from error
        return self._text(self._checked(text), "", _label(record))

    def _text(self, text: str, question: str, answer: str | int) -> Text:
        return Text(text, question, answer if self._labelled else None)

    def _checked(self, text: str) -> str:
        text = text.strip()
        if not text:
            raise BadExample("bad_text", "no caption")
        if reason := why_unreadable(text):
            raise BadExample("bad_text", reason)
        if not self._least <= len(text) <= self._most:
            raise BadExample("filtered_length", f"a caption of {len(text)} characters")
        return text

    def _choose(self, record: Record, visit: int, rng: np.random.Generator) -> str:
        if reason := record.get("no_text"):
            raise BadExample("bad_text", reason)
        captions = [text for text in record["captions"] if text.strip()]
        if not captions and self._prompts and record["labels"]:
            labels = [record["labels"][i] for i in rng.permutation(len(record["labels"]))]
            prompt = self._prompts[rng.integers(len(self._prompts))]
            return prompt.replace("{}", ", ".join(labels))
        captions = captions or [""]
        if self._captions == "sampled":
            return captions[rng.integers(len(captions))]
        return captions[visit % len(captions) if self._captions == "all" else 0]


def _label(record: Record) -> str | int:
    """The number of its class; or, of a source that does not number them, its name."""
    named = record["label"] < 0 and len(record["labels"]) == 1
    return record["labels"][0] if named else record["label"]


def listed(value: Any) -> list[Any]:
    """A field that should hold several values: TFDS gives the only one of a list by itself."""
    return value if isinstance(value, list) else [] if is_missing(value) else [value]


def _question(
    fields: dict[str, Any], asked: str, answered: str, rng: np.random.Generator
) -> tuple[str, str]:
    questions, answers = listed(fields.get(asked)), listed(fields.get(answered))
    if not questions or len(questions) != len(answers):
        raise BadExample("bad_text", f"{len(questions)} {asked}, {len(answers)} {answered}")
    place = rng.integers(len(questions))
    question, answer = questions[place], answers[place]
    if isinstance(answer, list) and answer:
        answer = answer[rng.integers(len(answer))]
    if reason := why_unreadable(question) or why_unreadable(answer):
        raise BadExample("bad_text", reason)
    return question, answer


def mistakes(
    captions: str,
    template: str,
    prompts: Sequence[Any],
    filters: Sequence[Any],
    questions: Sequence[str] = ("questions", "answers"),
) -> list[str]:
    """What is wrong with the options of a `CaptionMaker`, in words."""
    found = []
    if captions not in CHOICES:
        found.append(f"captions={captions!r} should be one of {', '.join(CHOICES)}")
    if len(questions) != 2 or not all(isinstance(name, str) for name in questions):
        found.append(f"questions={questions!r} should be two fields: of questions and of answers")
    if template and captions in ("none", "questions"):
        found.append(f"template={template!r} is for captions, and captions={captions}")
    try:
        for _, field, _, conversion in string.Formatter().parse(template):
            if field is not None and not field.lstrip("0123456789"):
                raise ValueError(f"{{{field}}} names no field")
            if conversion not in (None, "r", "s", "a"):
                raise ValueError(f"!{conversion} is no conversion")
    except ValueError as error:
        found.append(f"template={template!r} is no format: {error}")
    found += [
        f"prompts: {prompt!r} should have {{}} for the labels"
        for prompt in prompts
        if not isinstance(prompt, str) or "{}" not in prompt
    ]
    names = ", ".join(OPERATORS)
    found += [
        f"filters: {row!r} should be (field, one of {names}, value); a list for in and not in"
        for row in filters
        if not _is_filter(row)
    ]
    return found


def _is_filter(row: Any) -> bool:
    if not isinstance(row, (list, tuple)) or len(row) != 3:
        return False
    field, name, value = row
    if not isinstance(field, str) or not isinstance(name, str) or name not in OPERATORS:
        return False
    return isinstance(value, (list, tuple)) or name not in ("in", "not in")


class _Fields(dict):
    """A record's fields for a template, and its caption, which is asked for only if it has one."""

    def __init__(self, fields: dict[str, Any], caption: str):
        super().__init__(fields)
        if caption:
            self["caption"] = caption

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if is_missing(value):
            raise KeyError(name)
        return value


def _require(fields: dict[str, Any], field: str, name: str, value: Any) -> None:
    try:
        holds = OPERATORS[name](fields[field], value)
    except KeyError:
        raise BadExample("filtered_field", f"no {field!r} among {', '.join(fields)}") from None
    except TypeError as error:  # such as None >= 0.3
        raise BadExample("filtered_field", error) from error
    if not holds:
        raise BadExample("filtered_field", f"{field}={fields[field]!r} is not {name} {value!r}")
