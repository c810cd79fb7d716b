"""JSON files, and files with a JSON object a line: read, and checked field by field."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from coca_jax.errors import UserError
from coca_jax.io.files import open_binary, read_bytes, text_encoding
from coca_jax.io.messages import cause, counted

MOST_NAMED = 5  # ids in a message
MOST_SHOWN = 80  # characters of a value in a message
Id = int | str
_KINDS = {Id: "a number or a text", int: "a whole number", str: "a text", list: "a list"}


class Rows(NamedTuple):
    """What a format makes of a file."""

    # Each names its files in `image`, `images` or `video`, relative to the folder of images; where
    # there are several places to look for a file, as a tuple of them.
    rows: list[dict[str, Any]]
    unit: str = "images"  # what a row is one of
    left_out: str = ""  # what is not in the rows, in words


class Lines:
    """The objects of a file that has one a line, each with the number of its line."""

    def __init__(self, path: str | os.PathLike):
        self.path = path

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Reads the file.

        Raises:
          UserError: it cannot be read, or a line is no JSON.
        """
        number = 0
        try:
            with _open(self.path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, json.loads(line)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {cause(error)}") from error
        except UnicodeError as error:
            raise UserError(f"{self.path} is not UTF-8 behind line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}:{number} is no JSON: {error}") from error


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {cause(error)}") from error


def _open(path: str | os.PathLike) -> io.TextIOWrapper:
    """Opens a text; its lines end with \\n, \\r\\n or \\r."""
    file = open_binary(path)
    encoding = text_encoding(file.read(4))
    file.seek(0)
    return io.TextIOWrapper(file, encoding)


def read(path: str | os.PathLike) -> Any:
    """The content of a JSON file, or the `Lines` of one that has several values, one a line.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with _open(path) as file:
            lines = (line for line in file if line.strip())
            try:
                content = json.loads(next(lines, ""))
            except (ValueError, RecursionError):  # the value goes on in the next line, or is none
                return read_json(path)
            return Lines(path) if next(lines, None) else content
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {cause(error)}") from error


def fields(where: str, row: Any, **kinds: Any) -> list[Any]:
    """What a row of a file has under these names.

    Args:
      where: the file and the place in it, for messages.
      row: the row.
      **kinds: of what type each must be: Id, str or list.

    Raises:
      UserError: it lacks one, or one is of another type.
    """
    if not isinstance(row, dict) or any(name not in row for name in kinds):
        has = ", ".join(row) if isinstance(row, dict) else _short(row)
        raise UserError(f"{where} needs {', '.join(kinds)}; it has {has}")
    for name, kind in kinds.items():
        value = row[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: {name} should be {_KINDS[kind]}; it is {_short(value)}")
    return [row[name] for name in kinds]


def number_of(path: Any, place: int, what: str) -> str:
    """Where a row of a list is."""
    return f"{path}: number {place} of {what}"


def twice(ids: Iterable[Any]) -> list[Any]:
    """Those that are there more than once."""
    return [one for one, count in Counter(ids).items() if count > 1]


def refuse(path: Any, wrong: str, ids: Iterable[Any], what: str = "ids") -> None:
    """Refuses a file that has ids that it should not have.

    Raises:
      UserError: there are any; names the first of them.
    """
    ids = sorted(ids, key=_by_number)
    if ids:
        named = ", ".join(map(str, ids[:MOST_NAMED])) + (", ..." if ids[MOST_NAMED:] else "")
        raise UserError(f"{path}: {counted(len(ids), f'{what} {wrong}')}: {named}")


def _by_number(one: Any) -> tuple[bool, Any]:
    return (False, one) if isinstance(one, int) else (True, str(one))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
