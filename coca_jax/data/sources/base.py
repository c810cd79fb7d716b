"""The interface of a source: records by their number, and notes on how its files were read."""

import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from coca_jax.data.errors import BadExample

MOST_CLASSES = 2**31 - 1  # labels are int32
MOST_SHOWN = 80  # characters of a value in a message
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|nan|inf)", re.IGNORECASE)


# How files are read that a source does not read.
_READ_BY = {
    ".parquet": "made into records by `coca data convert`",
    ".tar": "read by format=webdataset",
    ".json": "a table once `coca data convert-annotations` has read it, if it is annotations",
    ".xlsx": "read once they are saved as .csv in UTF-8",
    ".zip": "read once they are unpacked",
}


class Record(TypedDict):
    """An image, or several, with everything that is stored about it."""

    image: bytes | list[bytes]  # an image file, several, or a video (transforms/multi_image.py)
    captions: list[str]  # may be empty; "" is the place of one that is missing
    no_text: NotRequired[str]  # why a stored caption is not text (data/texts.py)
    key: NotRequired[str]  # its name in its shard
    label: int  # of the source's `class_names`; -1: none
    labels: list[str]  # names of all its classes; may be empty
    fields: dict[str, Any]  # everything else that is stored with it, by name


class RowValues(list):
    """The values of a field in the rows that a table has of one image, one each; they differ."""


class Note(NamedTuple):
    """Something unusual about the files of a source, seen when it was opened.

    All notes are printed when training starts and by `coca data inspect`, which with `--strict`
    exits with 5 if one of them is `lost`.
    """

    kind: str  # a name for JSON, such as "without_image"; at most once in a source
    count: int  # of the samples, rows, images or files that `text` is about
    text: str  # a sentence with the count, the name of one of them and, if lost, what to do
    lost: bool = False  # whether they are in the files, but in no record


class Shard(NamedTuple):
    """The identity of a file of a data set, or of the folder of a class.

    It does not depend on where the data lie, nor on the age of the file.
    """

    name: str  # without the folder that it is in
    size: int  # bytes
    records: int
    checksum: str  # of the bytes that are read to find the records, not of all


@runtime_checkable
class Source(Protocol):
    """Random access to the records of a data set; picklable, and read by many threads.

    A source with a true attribute `in_order` is fast only where records are read in order, and
    need not be picklable.
    """

    class_names: Sequence[str] = ()  # of labels 0, 1, ...; empty: labels have no names
    notes: Sequence[Note] = ()  # on what was left out, and how the files were understood

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads a record; raises anything if it is damaged."""

    def shard(self, index: int) -> str:
        """The name of the file, or of the part of the data set, that a record is in."""

    def shards(self) -> list[Shard]:
        """All files or parts, in the order of their records; called once in a run."""


def base_name(path: str) -> str:
    """The last part of a path or URL, without a URL's query."""
    return (path.partition("?")[0] if "://" in path else path).rstrip("/").rpartition("/")[2]


def what_reads(names: Sequence[str]) -> str:
    """The end of a message on files that a source does not read: what reads them; may be empty."""
    for suffix, how in _READ_BY.items():
        if any(name.lower().endswith(suffix) for name in names):
            return f"; {suffix} files are {how}"
    return ""


def warn_of_lost(name: str, source: Source) -> None:
    """Prints the notes on what is lost of a data set to standard error.

    Args:
      name: of the data set, for the message.
      source: of the notes.
    """
    for note in source.notes:
        if note.lost:
            print(f"warning: {name}: {note.text}", file=sys.stderr)


def to_text(data: bytes) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
      BadExample: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadExample("bad_text", error) from error


def is_text(text: str) -> bool:
    """Whether UTF-8 can encode a text; JSON can hold halves of surrogate pairs, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_labels(labels: Sequence[Any], class_names: Sequence[str]) -> tuple[int, list[str]]:
    """Makes a record's `label` and `labels` of stored labels.

    Args:
      labels: numbers of classes, possibly as floats, or names of classes. None, an empty text and
        -1 are not labels.
      class_names: of the source; may be empty.

    Returns:
      The number of the label (-1 if there is not exactly one, or it has no number), and the names
      of all labels.

    Raises:
      BadExample: a label is neither the number of a class nor a name.
    """
    classes = [_to_class(label, class_names) for label in labels]
    classes = [label for label in classes if label not in (-1, "")]
    only = classes[0] if len(classes) == len(labels) == 1 else -1
    names = [_name(label, class_names) for label in classes]
    if isinstance(only, str):
        only = class_names.index(only) if only in class_names else -1
    return only, [name for name in names if name]


def _name(label: int | str, class_names: Sequence[str]) -> str:
    return label if isinstance(label, str) else class_names[label] if class_names else ""


def to_number(text: str) -> float | str:
    """A text as a number, NaN included, if it is one; otherwise the text."""
    return float(text) if NUMBER.fullmatch(text.strip()) else text


def _to_class(label: Any, class_names: Sequence[str]) -> int | str:
    """A label as the number or as the name of a class."""
    count = len(class_names)
    if isinstance(label, str):
        if not is_text(label):
            raise BadExample("bad_text", f"the label {label!r} holds half of a surrogate pair")
        is_number = NUMBER.fullmatch(label) if count else label.lower() == "nan"
        if label in class_names or not is_number:
            return label
    try:
        number = float(-1 if label is None else label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number.is_integer() and -1 <= number < (count or MOST_CLASSES):
        return int(number)
    numbers = f"a number from 0 to {count - 1} or the name of a class"
    expected = numbers if count else "the number or the name of a class"
    raise BadExample("bad_record", f"the label is {_short(label)}; it should be {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
