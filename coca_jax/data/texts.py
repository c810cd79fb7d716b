"""Stored values that are captions, texts with something to read; and why other values are not."""

from collections.abc import Iterable, Sequence
from typing import Any, AnyStr

from coca_jax.data.sources.base import is_text

# Words for "no value" that programs write into files without types, as `pandas.read_csv` has them.
MISSING_WORDS = frozenset(
    (
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "-NaN", "-nan", "n/a", "nan", "null"),
    )
)


def is_missing(value: Any) -> bool:
    """Whether a value stands for "no value": null, NaN, or a blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def number_as_text(value: Any) -> Any:
    """A number as it is written, such as an answer that a table or JSON stores; else the value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and value == value else value


def why_unreadable(value: Any) -> str:
    """The reason why a value is not readable text; empty if it is."""
    if not isinstance(value, str):
        return f"{_short(value)} is not text"
    if "\0" in value:
        return f"{_short(value)} holds a NUL"
    if not is_text(value):
        return f"{_short(value)} holds half of a surrogate pair"
    if not any(c.isprintable() and not c.isspace() for c in value):
        return f"{_short(value)} has nothing to read"
    return ""


def to_captions(values: Iterable[Any]) -> dict[str, Any]:
    """Makes captions of stored values.

    Returns:
      Entries of a record: "captions", with an empty text in the place of a value that is not one,
      or none at all if no value is; and "no_text" if a value is neither a text nor missing.
    """
    values = ["" if is_missing(value) else value for value in values]
    reasons = [why_unreadable(value) if value != "" else "" for value in values]
    captions = ["" if reason else v for v, reason in zip(values, reasons, strict=True)]
    reason = next(filter(None, reasons), "")
    made = {"captions": captions if any(captions) else []}
    return made | {"no_text": reason} if reason else made


def with_places(texts: Sequence[AnyStr]) -> list[AnyStr]:
    """The captions in one column of several: of a list empty ones, too, which keep their places."""
    return [text for text in texts if text or len(texts) > 1]


def to_present_captions(values: Iterable[Any]) -> dict[str, Any]:
    """Makes captions as `to_captions` does, and leaves out empty ones.

    Returns:
      The same entries of a record, and "stored_captions", with the empty ones.
    """
    made = to_captions(values)
    stored = made["captions"]
    return made | {"captions": list(filter(None, stored)), "stored_captions": stored}


def _short(value: Any, most: int = 40) -> str:
    text = ascii(value)
    return text if len(text) <= most else text[:most] + "..."
