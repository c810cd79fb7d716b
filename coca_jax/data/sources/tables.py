"""Tables of images: the rows of a CSV, TSV or JSONL file, by their offsets.

A table is read as a whole when it is opened, and a row again when it is needed: 20 bytes a row stay
in memory. A row that cannot be parsed is an entry of its own, which is a bad example when it is
read.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.base import Shard, base_name, to_text
from coca_jax.data.sources.delimited import (
    NO_PATH,
    NOT_UTF8,
    UNCLOSED,
    WRONG_COUNT,
    Delimited,
    choose_column,
)
from coca_jax.data.sources.lines import BOM, Lines, is_utf8
from coca_jax.errors import UserError
from coca_jax.io import files, http
from coca_jax.io.messages import cause

SUFFIXES = (".csv", ".tsv", ".jsonl")
NO_JSON = "no_json"
# What is wrong with rows, in words.
FAULTS = {
    NO_PATH: "have no path of an image",
    NOT_UTF8: "are not UTF-8",
    WRONG_COUNT: "have too many or too few values",
    UNCLOSED: "have a quote that is never closed",
    NO_JSON: "have no valid JSON object, or a key that occurs twice",
}


class Table:
    """Entries of a file, each of all rows with the same value in one column; picklable.

    Attributes:
      column: the column whose values tell entries apart.
      names: of all columns; of a .jsonl, those of the first row.
      separator: between values; empty for a .jsonl, whose values have types.
      faults: by kind of FAULTS: the number of such rows, and the line of the first.
      row_count: the number of rows, with bad ones.
    """

    def __init__(self, path: str, columns: Sequence[str]):
        """Finds the rows.

        Args:
          path: of a .csv or .tsv file, whose first line names the columns, or of a .jsonl file.
          columns: the first of these that the file has tells entries apart.

        Raises:
          UserError: there is no such file, column or row, the file is not UTF-8 as a whole, or it
            cannot be seen where a row ends.
        """
        self.path = path
        kind = _Json if base_name(path).lower().endswith(".jsonl") else Delimited
        shown = http.shown(path)
        try:
            with files.open_binary(path) as file:
                lines = Lines(file, shown)
                self._rows = kind(lines, shown, columns)
                begins, ends, keys, self.faults = _scan(self._rows.keys(lines), lines)
        except OSError as error:
            raise UserError(f"the table {shown} cannot be read: {cause(error, path)}") from error
        if not len(keys):
            raise UserError(f"the table {shown} holds no rows")
        order, self._ends = _grouped(keys)
        self._begins, self._sizes = begins[order], (ends - begins)[order].astype(np.uint32)
        self.shard = Shard(base_name(path), lines.end, len(self._ends), f"{lines.checksum:08x}")
        self.column, self.names = self._rows.column, self._rows.names
        self.separator = self._rows.separator
        self.row_count = len(keys)

    def __len__(self) -> int:
        return len(self._ends)

    def rows(self, index: int) -> list[dict[str, Any]]:
        """All rows of an entry, in the order of the file: values by the names of columns.

        Raises:
          BadExample: one of them has too many or too few values, or is not UTF-8.
        """
        part = slice(self._ends[index - 1] if index else 0, self._ends[index])
        places = zip(self._begins[part].tolist(), self._sizes[part].tolist(), strict=True)
        return [self._rows.parse(files.read_range(self.path, *place)) for place in places]


class _Json:
    """Rows of a .jsonl file: a JSON object in each line."""

    separator = ""

    def __init__(self, lines: Lines, path: str, columns: Sequence[str]):
        line = next((line for line in lines if line.strip()), "")
        self.column, self.names = "", []
        if not line:
            return
        first = _parsed(line)
        if first is None:
            raise UserError(f"{path}:{lines.number} is not a JSON object in one line{_hint(line)}")
        self.names = list(first)
        self.column = choose_column(path, self.names, columns)
        lines.give_back([line])

    def keys(self, lines: Lines) -> Iterator[tuple[str | None, str]]:
        """Yields for each line the value of the column, and what is wrong; see `Delimited.keys`."""
        for line in lines:
            if not line.strip():
                yield None, ""
            elif not line.isascii() and not is_utf8(line):
                yield "", NOT_UTF8
            elif (row := _parsed(line)) is None:
                yield "", NO_JSON
            else:
                key = row.get(self.column)
                yield (str(key), "") if key else ("", NO_PATH)

    def parse(self, data: bytes) -> dict[str, Any]:
        """The values of a line by name, with their types.

        Raises:
          BadExample: it is not a JSON object, has a key twice, or is not UTF-8.
        """
        try:
            row = _JSON.decode(to_text(data))
        except (ValueError, RecursionError) as error:
            raise BadExample("bad_record", error) from error
        if not isinstance(row, dict):
            raise BadExample("bad_record", f"no JSON object but {type(row).__name__}")
        return row


def _parsed(line: str) -> dict[str, Any] | None:
    """The JSON object of a line, if it is one."""
    try:
        row = _JSON.decode(line.removeprefix(BOM))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is duplicated")
    return row


_JSON = json.JSONDecoder(object_pairs_hook=_unique)


def _hint(line: str) -> str:
    if line.lstrip().startswith("["):
        return "; of a JSON array, `jq -c '.[]' OLD > NEW.jsonl` makes lines"
    if line.strip() == "{":
        return "; `jq -c . OLD > NEW.jsonl` puts each object in one line"
    return ""


def _scan(
    keys: Iterator[tuple[str | None, str]], lines: Lines
) -> tuple[
    Int64[np.ndarray, " n"],
    Int64[np.ndarray, " n"],
    UInt64[np.ndarray, " n"],
    dict[str, tuple[int, int]],
]:
    """Offsets of the begins and ends of rows, a hash of each row's key, and `Table.faults`."""
    begins, ends, hashes = array("q"), array("q"), array("Q")
    faults: dict[str, tuple[int, int]] = {}
    begin, number = lines.end, lines.number + 1
    for key, fault in keys:
        if key is not None:
            begins.append(begin)
            ends.append(lines.end)
            # Rows without a key are entries of their own.
            key = (key or f"\0{begin}").encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(key, digest_size=8).digest()
            hashes.append(int.from_bytes(digest, "little"))
        if fault:
            count, first = faults.get(fault, (0, number))
            faults[fault] = (count + 1, first)
        begin, number = lines.end, lines.number + 1
    places = np.array(begins, np.int64), np.array(ends, np.int64)
    return *places, np.array(hashes, np.uint64), faults


def _grouped(
    keys: UInt64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """The order of rows by groups of equal keys, groups by their first row; and groups' ends."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    ranks = rank[group]
    return np.argsort(ranks, kind="stable"), np.cumsum(np.bincount(ranks))
