"""Captions: make the one text that an image is trained with of what its record says."""

import json
import operator
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Record
from coca_jax.data.sources.base import RowValues
from coca_jax.data.texts import is_missing, number_as_text, why_unreadable
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
    """The text of a record, and what a head is asked about it."""

    text: str
    question: str  # the beginning of the text, which a head may read; empty: all of it
    answer: str | int | None  # name or number of a class; None: unknown
    group: str | None = None  # pairs of one group match each other; None: a group of its own
    negative: str | None = None  # a wrong caption; None: there is none


class CaptionMaker:
    """Makes the caption of a record; a pure function of (record, epoch, rng).

    Args:
      captions: "sampled" draws one of the record's captions, "first" takes the first, "all" takes
        them in turn, the next one in each epoch. "none" makes no text. "questions" draws a question
        and appends its answer; of several answers it draws one.
      template: what the caption becomes, with the record's fields by name: "{title}. {caption}";
        empty: the caption as it is.
      prompts: what the labels of a record without captions become; `{}` stands for the labels, in
        random order and joined by commas, as the paper trains on JFT (arXiv 2205.01917, section
        4.1). Without prompts labels are not text.
      min_characters, max_characters: of the caption; records with others are left out.
      filters: rows (field, operator, value), one of OPERATORS; records for which one of them does
        not hold, or that lack its field, are left out.
      questions: names of the fields with the questions and with their answers.
      use_labels: whether a head learns from the answer or the label.
      group: what pairs of a group have in common: "caption", "label" or the name of a field; empty:
        each pair is a group of its own.
      negatives: name of the field with a wrong caption for each caption; empty: there is none.
      data_set: name of the data set within a mixture. Numbers of classes and values of fields make
        groups within it; captions and names of classes make groups of the whole mixture.

    Raises:
      UserError: an option has another value.
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
        group: str = "",
        negatives: str = "",
        data_set: str = "",
    ):
        if errors := caption_option_errors(captions, template, prompts, filters, questions):
            raise UserError("\n".join(errors))
        self._captions, self._template, self._prompts = captions, template, tuple(prompts)
        self._least, self._most = min_characters, max_characters
        self._questions, self._use_labels = tuple(questions), use_labels
        self.group, self._data_set = group, data_set
        self.negatives = negatives
        self._filters = [(field, name, value) for field, name, value in filters]

    def __call__(self, record: Record, epoch: int, rng: np.random.Generator) -> Text:
        """Makes the text of a record, with the question and the answer for a head.

        Args:
          record: of the image.
          epoch: the number of times that the image was drawn before.
          rng: gives every random draw.

        Raises:
          BadExample: there is no text (`bad_text`), or it is left out (`filtered_...`).
        """
        fields = record["fields"]
        for row in self._filters:
            _apply_filter(fields, *row)
        if self._captions == "none":
            return self._text("", "", _label(record), self._group(record, ""))
        if self._captions == "questions":
            question, answer = _question(fields, *self._questions, rng)
            text = self._checked(f"{question} {answer}")
            return self._text(text, question, answer, self._group(record, text))
        text, negative, index = self._choose(record, epoch, rng)
        fields = _of_row(fields, index, len(record["captions"]))
        group = self._group(record, text)
        text = self._checked(self._in_template(fields, text))
        made = self._text(text, "", _label(record), group)
        if is_missing(negative):
            return made
        if reason := why_unreadable(negative):
            raise BadExample("bad_text", f"{self.negatives}: {reason}")
        return made._replace(negative=self._in_template(fields, negative).strip())

    def _text(self, text: str, question: str, answer: str | int, group: str | None) -> Text:
        return Text(text, question, answer if self._use_labels else None, group)

    def _in_template(self, fields: dict[str, Any], text: str) -> str:
        if not self._template:
            return text
        try:
            return self._template.format_map(_Fields(fields, text))
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise BadExample("bad_text", f"{self._template!r} lacks {error}") from error

    def _group(self, record: Record, caption: str) -> str | None:
        """What the pairs of the record's group have in common; None: it is a group of its own.

        Raises:
          BadExample: the record lacks the label or the field.
        """
        if not self.group:
            return None
        if self.group == "caption":
            return caption.strip()
        named = self.group == "label" and bool(record["labels"])
        if self.group == "label":
            values = sorted(record["labels"]) or ([record["label"]] if record["label"] >= 0 else [])
        else:
            values = listed(record["fields"].get(self.group))
        if not values:
            raise BadExample("bad_record", f"it has no {self.group!r}, which group=... names")
        key = json.dumps(values, default=str)
        return key if named or not self._data_set else f"{self._data_set}: {key}"

    def _checked(self, text: str) -> str:
        text = text.strip()
        if not text:
            raise BadExample("bad_text", "no caption")
        if reason := why_unreadable(text):
            raise BadExample("bad_text", reason)
        if not self._least <= len(text) <= self._most:
            raise BadExample("filtered_length", f"a caption of {len(text)} characters")
        return text

    def _choose(
        self, record: Record, epoch: int, rng: np.random.Generator
    ) -> tuple[str, Any, int | None]:
        """The caption, the record's wrong one for it, and its place; None: there is none."""
        if reason := record.get("no_text"):
            raise BadExample("bad_text", reason)
        pairs = zip(record["captions"], self._negatives_of(record), strict=True)
        pairs = [(text, wrong, i) for i, (text, wrong) in enumerate(pairs) if text.strip()]
        if not pairs and self._prompts and record["labels"]:
            labels = [record["labels"][i] for i in rng.permutation(len(record["labels"]))]
            prompt = self._prompts[rng.integers(len(self._prompts))]
            return prompt.replace("{}", ", ".join(labels)), None, None
        pairs = pairs or [("", None, None)]
        if self._captions == "sampled":
            return pairs[rng.integers(len(pairs))]
        return pairs[epoch % len(pairs) if self._captions == "all" else 0]

    def _negatives_of(self, record: Record) -> list[Any]:
        """The wrong caption of each caption of a record; None: there is none.

        Raises:
          BadExample: there are not as many of both.
        """
        captions = record["captions"]
        wanted = self.negatives and captions
        negatives = listed(record["fields"].get(self.negatives)) if wanted else []
        if negatives and len(negatives) != len(captions):
            counts = f"{len(negatives)} {self.negatives} for {len(captions)} captions"
            raise BadExample("bad_text", counts)
        return negatives or [None] * len(captions)


def _label(record: Record) -> str | int:
    """The number of a record's class, or its name where the source has no numbers."""
    named = record["label"] < 0 and len(record["labels"]) == 1
    return record["labels"][0] if named else record["label"]


def listed(value: Any) -> list[Any]:
    """The values of a field as a list; TFDS gives the only value of a list by itself."""
    return value if isinstance(value, list) else [] if is_missing(value) else [value]


def in_columns(fields: dict[str, Any], *names: str) -> list[list[Any]]:
    """Fields that belong together, such as questions and their answers, as lists of values.

    Where an image has several rows in a table, a value that is the same in all of them counts for
    each.
    """
    values = [fields.get(name) for name in names]
    rows = max((len(value) for value in values if isinstance(value, RowValues)), default=0)
    return [
        [value] * rows
        if rows and not isinstance(value, RowValues) and not is_missing(value)
        else listed(value)
        for value in values
    ]


def _of_row(fields: dict[str, Any], index: int | None, captions: int) -> dict[str, Any]:
    """The fields of the row that has the caption of this place, if each row has one caption."""
    return {
        name: value[index]
        if isinstance(value, RowValues) and index is not None and len(value) == captions
        else value
        for name, value in fields.items()
    }


def _question(
    fields: dict[str, Any], question_field: str, answer_field: str, rng: np.random.Generator
) -> tuple[str, str]:
    questions, answers = in_columns(fields, question_field, answer_field)
    if not questions or len(questions) != len(answers):
        counts = f"{len(questions)} {question_field}, {len(answers)} {answer_field}"
        raise BadExample("bad_text", counts)
    index = rng.integers(len(questions))
    question, answer = questions[index], answers[index]
    if isinstance(answer, list) and answer:
        answer = answer[rng.integers(len(answer))]
    answer = number_as_text(answer)
    if reason := why_unreadable(question) or why_unreadable(answer):
        raise BadExample("bad_text", reason)
    return question.strip(), answer.strip()


def caption_option_errors(
    captions: str,
    template: str,
    prompts: Sequence[Any],
    filters: Sequence[Any],
    questions: Sequence[str] = ("questions", "answers"),
) -> list[str]:
    """Messages on options of a `CaptionMaker` that have a wrong value or do not go together."""
    errors = []
    if captions not in CHOICES:
        errors.append(f"captions={captions!r} should be one of {', '.join(CHOICES)}")
    if len(questions) != 2 or not all(isinstance(name, str) for name in questions):
        errors.append(f"questions={questions!r} should be two fields: of questions and of answers")
    if template and captions in ("none", "questions"):
        errors.append(f"template={template!r} is for captions, and captions={captions}")
    try:
        for _, field, _, conversion in string.Formatter().parse(template):
            if field is not None and not field.lstrip("0123456789"):
                raise ValueError(f"{{{field}}} names no field")
            if conversion not in (None, "r", "s", "a"):
                raise ValueError(f"!{conversion} is not a conversion")
    except ValueError as error:
        errors.append(f"template={template!r} is not a format: {error}")
    errors += [
        f"prompts: {prompt!r} should have {{}} for the labels"
        for prompt in prompts
        if not isinstance(prompt, str) or "{}" not in prompt
    ]
    names = ", ".join(OPERATORS)
    errors += [
        f"filters: {row!r} should be (field, one of {names}, value); a list for in and not in"
        for row in filters
        if not _is_filter(row)
    ]
    return errors


def _is_filter(row: Any) -> bool:
    if not isinstance(row, (list, tuple)) or len(row) != 3:
        return False
    field, name, value = row
    if not isinstance(field, str) or not isinstance(name, str) or name not in OPERATORS:
        return False
    return isinstance(value, (list, tuple)) or name not in ("in", "not in")


class _Fields(dict):
    """The fields of a record for a template, with its caption if it has one."""

    def __init__(self, fields: dict[str, Any], caption: str):
        super().__init__(fields)
        if caption:
            self["caption"] = caption

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if is_missing(value) or isinstance(value, RowValues):  # of which row is not known
            raise KeyError(name)
        return value


def _apply_filter(fields: dict[str, Any], field: str, name: str, value: Any) -> None:
    try:
        found = fields[field]
        values = found if isinstance(found, RowValues) else [found]
        holds = all(OPERATORS[name](one, value) for one in values)
    except KeyError:
        raise BadExample("filtered_field", f"no {field!r} among {', '.join(fields)}") from None
    except TypeError as error:  # such as None >= 0.3
        raise BadExample("filtered_field", error) from error
    if not holds:
        raise BadExample("filtered_field", f"{field}={fields[field]!r} is not {name} {value!r}")
