"""Reads JSON files and JSON Lines files, and checks their rows field by field."""

import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from coca_jax.errors import UserError
from coca_jax.io.files import open_binary, read_bytes, text_encoding
from coca_jax.io.messages import cause, counted

MOST_NAMED = 5  # the most ids in a message
MOST_SHOWN = 80  # the most characters of a value in a message
Id = int | str
_KINDS = {Id: "a number or a text", int: "a whole number", str: "a text", list: "a list"}


class Rows(NamedTuple):
    """The rows that were read from an annotation file."""

    # Each names its files in `image`, `images` or `video`, relative to the folder of images. A
    # file that may be in several places is a tuple of paths.
    rows: list[dict[str, Any]]
    unit: str = "images"  # what the rows are, in the plural
    left_out: str = ""  # a phrase on what was left out; empty: nothing


class Lines:
    """The values of a JSON Lines file, each with its line number."""

    def __init__(self, path: str | os.PathLike):
        self.path = path

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yields line numbers and values.

        Raises:
          UserError: the file cannot be read, or a line is not JSON.
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
            raise UserError(f"{self.path} is not UTF-8 after line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}:{number} is not JSON: {error}") from error


def read_json(path: str | os.PathLike) -> Any:
    """Returns the content of a JSON file.

    Raises:
      UserError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {cause(error)}") from error


def _open(path: str | os.PathLike) -> io.TextIOWrapper:
    """Opens a text file whose lines end with \\n, \\r\\n or \\r."""
    file = open_binary(path)
    encoding = text_encoding(file.read(4))
    file.seek(0)
    return io.TextIOWrapper(file, encoding)


def read(path: str | os.PathLike) -> Any:
    """Returns the content of a JSON file, or the `Lines` of a JSON Lines file.

    Raises:
      UserError: the file cannot be read or is not JSON.
    """
    try:
        with _open(path) as file:
            lines = (line for line in file if line.strip())
            try:
                content = json.loads(next(lines, ""))
            except (ValueError, RecursionError):  # the value spans several lines, or is invalid
                return read_json(path)
            return Lines(path) if next(lines, None) else content
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {cause(error)}") from error


def fields(where: str, row: Any, **kinds: Any) -> list[Any]:
    """Returns the values that a row has under these names.

    Args:
      where: the file and the place in it, for messages.
      row: the row.
      **kinds: the type of each value: Id, int, str or list.

    Raises:
      UserError: the row lacks a value, or a value has another type.
    """
    if not isinstance(row, dict) or any(name not in row for name in kinds):
        has = ", ".join(row) if isinstance(row, dict) else _short(row)
        raise UserError(f"{where} needs {', '.join(kinds)}; it has {has}")
    for name, kind in kinds.items():
        value = row[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{where}: {name} should be {_KINDS[kind]}; it is {_short(value)}")
    return [row[name] for name in kinds]


def number_of(path: Any, index: int, what: str) -> str:
    """Names a row of a list, for messages."""
    return f"{path}: number {index} of {what}"


def reject_ids(path: Any, problem: str, ids: Iterable[Any], what: str = "ids") -> None:
    """Raises if there are any ids: those with which a file has a problem.

    Raises:
      UserError: `ids` is not empty; the message names the first of them.
    """
    ids = sorted(ids, key=_by_number)
    if ids:
        named = ", ".join(map(str, ids[:MOST_NAMED])) + (", ..." if ids[MOST_NAMED:] else "")
        raise UserError(f"{path}: {counted(len(ids), f'{what} {problem}')}: {named}")


def _by_number(identifier: Any) -> tuple[bool, Any]:
    """A sort key that puts numbers first."""
    return (False, identifier) if isinstance(identifier, int) else (True, str(identifier))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
