"""What every source gives: records by their number, and notes on how it read the files."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

from coca_jax.data.bad import BadExample


class Record(TypedDict):
    """One image with all that is known of it."""

    image: bytes | list[bytes]  # an encoded image file, or several, or a video (data/clips.py)
    captions: list[str]  # maybe none
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

    class_names: list[str]  # of labels 0, 1, ...; empty if there are none
    notes: Sequence[Note]  # maybe none; on what was left out, and how files were taken

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads a record, and raises whatever it likes if that is damaged."""

    def shard(self, index: int) -> str:
        """The file, or the part of the data set, in which a record is."""

    def shards(self) -> list[Shard]:
        """All of these, in the order of their records; asked for once in a run."""


def base_name(path: str) -> str:
    """The last part of a path or URL, without a URL's query."""
    return (path.partition("?")[0] if "://" in path else path).rstrip("/").rpartition("/")[2]


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


def to_labels(labels: Sequence[Any], class_names: Sequence[str]) -> tuple[int, list[str]]:
    """A record's `label` and `labels`, from what is stored.

    Args:
      labels: numbers of classes, or names of them.
      class_names: of the source, maybe none.

    Returns:
      The number of the only label, -1 if there are several or it has none; and all names.
    """
    names = [label if isinstance(label, str) else _name(label, class_names) for label in labels]
    number = labels[0] if len(labels) == 1 else -1
    if isinstance(number, str):
        number = class_names.index(number) if number in class_names else -1
    return number if isinstance(number, int) else -1, [name for name in names if name]


def _name(label: Any, class_names: Sequence[str]) -> str:
    known = isinstance(label, int) and 0 <= label < len(class_names)
    return class_names[label] if known else ""
