"""What every source gives: records by their number."""

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

from coca_jax.data.bad import BadExample


class Record(TypedDict):
    """One image with all that is known of it."""

    image: bytes | list[bytes]  # an encoded image file, or several, or a video (data/clips.py)
    captions: list[str]  # maybe none
    label: int  # of the source's `class_names`; -1: none
    labels: list[str]  # names of all its classes, maybe none
    fields: dict[str, Any]  # everything else that was stored beside it, by name


@runtime_checkable
class Source(Protocol):
    """Random access to the records of a data set; picklable, and read by many threads."""

    class_names: list[str]  # of labels 0, 1, ...; empty if there are none

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads a record, and raises whatever it likes if that is damaged."""

    def shard(self, index: int) -> str:
        """The file, or the part of the data set, in which a record is."""


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
