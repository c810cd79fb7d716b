"""What every source gives: records by their number, and notes on how it read the files."""

import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict, runtime_checkable

from coca_jax.data.errors import BadExample

MOST_CLASSES = 2**31 - 1  # labels are int32
MOST_SHOWN = 80  # characters of a value in a message
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|nan|inf)", re.IGNORECASE)


# What files are for that a source does not read.
_READ_BY = {
    ".parquet": "made into records by `coca data convert`",
    ".tar": "read by format=webdataset",
    ".json": "a table once `coca data convert-annotations` has read it, if it is annotations",
    ".xlsx": "read once they are saved as .csv in UTF-8",
    ".zip": "read once they are unpacked",
}


class Record(TypedDict):
    """One image with all that is known of it."""

    image: bytes | list[bytes]  # an encoded image file, or several, or a video (data/clips.py)
    captions: list[str]  # maybe none
    no_text: NotRequired[str]  # why something in the place of a caption is none (data/texts.py)
    label: int  # of the source's `class_names`; -1: none
    labels: list[str]  # names of all its classes, maybe none
    fields: dict[str, Any]  # everything else that was stored beside it, by name


class Note(NamedTuple):
    """One thing that a source did with the files, found when it was opened.

    All notes are printed when training starts and by `coca data inspect`, which with `--strict`
    exits with 5 if one of them is `lost`.
    """

    kind: str  # a name for JSON, such as "without_image", once in a source
    count: int  # of samples, rows, images or files, whatever `text` counts
    text: str  # a sentence with the count, the name of one of them and, if lost, what helps
    lost: bool = False  # whether they are in the files, but in no record


class Shard(NamedTuple):
    """What tells a file of a data set, or the folder of a class, from another content of it.

    It is the same wherever the data lie, and however old the file is.
    """

    name: str  # without the folder that it is in
    size: int  # bytes
    records: int
    checksum: str  # of what finding the records reads, not of every byte


@runtime_checkable
class Source(Protocol):
    """Random access to the records of a data set; picklable, and read by many threads."""

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
    """What to do with files that a source does not read, for its message; empty: unknown."""
    for suffix, how in _READ_BY.items():
        if any(name.lower().endswith(suffix) for name in names):
            return f"; {suffix} files are {how}"
    return ""


def warn_of_lost(name: str, source: Source) -> None:
    """Prints the notes on what is lost of a data set to standard error.

    Args:
      name: of the data set, for the message.
      source: it.
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
    """Whether UTF-8 can hold it: JSON can hold halves of surrogate pairs, which are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_labels(labels: Sequence[Any], class_names: Sequence[str]) -> tuple[int, list[str]]:
    """A record's `label` and `labels`, from what is stored.

    Args:
      labels: numbers of classes, maybe as floats, or names of them. None, an empty text and -1 are
        no label.
      class_names: of the source, maybe none.

    Returns:
      The number of the only label, -1 if there are several or it has none; and all names.

    Raises:
      BadExample: a label is neither the number of a class nor a name.
    """
    known = [_to_class(label, class_names) for label in labels]
    known = [label for label in known if label not in (-1, "")]
    only = known[0] if len(known) == len(labels) == 1 else -1
    names = [_name(label, class_names) for label in known]
    if isinstance(only, str):
        only = class_names.index(only) if only in class_names else -1
    return only, [name for name in names if name]


def _name(label: int | str, class_names: Sequence[str]) -> str:
    return label if isinstance(label, str) else class_names[label] if class_names else ""


def to_number(text: str) -> float | str:
    """The number that a text is, if it is one, NaN included."""
    return float(text) if NUMBER.fullmatch(text.strip()) else text


def _to_class(label: Any, class_names: Sequence[str]) -> int | str:
    """A label as the number or as the name of a class."""
    known = len(class_names)
    if isinstance(label, str):
        if not is_text(label):
            raise BadExample("bad_text", f"the label {label!r} holds half of a surrogate pair")
        is_number = NUMBER.fullmatch(label) if known else label.lower() == "nan"
        if label in class_names or not is_number:
            return label
    try:
        number = float(-1 if label is None else label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number.is_integer() and -1 <= number < (known or MOST_CLASSES):
        return int(number)
    numbers = f"the numbers 0 to {known - 1} or names of the classes"
    expected = numbers if known else "the number or the name of a class"
    raise BadExample("bad_record", f"the label is {_short(label)}; it should be {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
