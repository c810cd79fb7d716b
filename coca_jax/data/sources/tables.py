"""Tables of what is known of images: the rows of a CSV, TSV or JSONL file, found by offsets.

A table is read once when it is opened, and a row again when it is asked for: 20 bytes a row stay
in memory. Bytes are taken as Latin-1 where rows are looked for, so that what is not UTF-8 is bad
in its own row only.
"""

import csv
import hashlib
import itertools
import json
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from coca_jax.data.bad import BadExample
from coca_jax.data.sources.base import Shard, base_name, to_text
from coca_jax.errors import UserError
from coca_jax.io import files

SUFFIXES = (".csv", ".tsv", ".jsonl")
_BOM = b"\xef\xbb\xbf"


class Table:
    """Entries of a file: all its rows with the same value in one column; picklable."""

    def __init__(self, path: str, columns: Sequence[str]):
        """Finds the rows.

        Args:
          path: of a .csv, .tsv or .jsonl file; the first line of the former two names the columns.
          columns: names of the column that tells entries apart; the first that the file has.

        Raises:
          UserError: there is no such file, column or row, or a row that cannot be told from the
            next.
        """
        self.path = path
        kind = _Json if path.endswith(".jsonl") else _Csv
        try:
            with files.open_binary(path) as file:
                lines = _Lines(file)
                self._rows = kind(lines, path, columns)
                begins, ends, keys = _scan(self._rows.keys(lines), lines)
        except OSError as error:
            raise UserError(f"the table {path} cannot be read: {error}") from error
        if not len(keys):
            raise UserError(f"the table {path} holds no rows")
        begin, end = begins[-1:].item(), ends[-1:].item()
        if not self._rows.is_closed(files.read_range(path, begin, end - begin)):
            raise UserError(f"{path}: a quote of the row at byte {begin} is never closed")
        order, self._ends = _grouped(keys)
        self._begins, self._sizes = begins[order], (ends - begins)[order].astype(np.uint32)
        self.shard = Shard(base_name(path), lines.end, len(self._ends), f"{lines.checksum:08x}")
        self.column = self._rows.column  # the one of `columns`
        self.has_types = kind is _Json  # otherwise all values are text

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


class _Lines:
    """Lines of a file, a character a byte, and what was read of it."""

    def __init__(self, file: Any):
        self._file = file
        self.end = 0  # bytes
        self.number = 0  # lines
        self.checksum = 0  # CRC-32

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.end += len(line)
        self.number += 1
        self.checksum = zlib.crc32(line, self.checksum)
        return (line.removeprefix(_BOM) if self.number == 1 else line).decode("latin-1")


class _Csv:
    """Rows of values between commas or tabs, some of them within quotes."""

    def __init__(self, lines: _Lines, path: str, columns: Sequence[str]):
        first = next(lines, "")
        # OpenCLIP's tables have tabs, whatever their name.
        self._delimiter = "\t" if path.endswith(".tsv") or "\t" in first else ","
        self._path = path
        try:
            header = next(self._reader(itertools.chain([first], lines)), [])
            self._header = [to_text(name.encode("latin-1")).strip() for name in header]
        except (csv.Error, BadExample) as error:
            raise UserError(f"{path}:{lines.number}: no header of a table: {error}") from error
        self.column = _column(path, self._header, columns)

    def keys(self, lines: _Lines) -> Iterator[str | None]:
        """Row by row, the value of the column; "": the row lacks it; None: the row is empty."""
        column = self._header.index(self.column)
        try:
            for row in self._reader(lines):
                yield row[column] if len(row) > column else "" if row else None
        except csv.Error as error:
            raise UserError(
                f"{self._path}:{lines.number}: {error}; is a quote never closed?"
            ) from error

    def parse(self, data: bytes) -> dict[str, Any]:
        """The values of a row, all of them text."""
        (row,) = self._reader([data.decode("latin-1")])
        if len(row) != len(self._header):
            cause = f"{len(row)} values in {len(self._header)} columns"
            raise BadExample("bad_record", cause)
        texts = [to_text(value.encode("latin-1")) for value in row]
        return dict(zip(self._header, texts, strict=True))

    def is_closed(self, data: bytes) -> bool:
        """Whether a row's last quote is closed."""
        try:
            list(self._reader([data.decode("latin-1")], strict=True))
        except csv.Error as error:
            return "unexpected end" not in str(error)
        return True

    def _reader(self, lines: Iterator[str] | list[str], strict: bool = False) -> Any:
        return csv.reader(lines, delimiter=self._delimiter, strict=strict)


class _Json:
    """A JSON object a line."""

    def __init__(self, lines: _Lines, path: str, columns: Sequence[str]):
        del lines
        self._path, self._columns = path, columns
        self.column = ""  # until the first row is read

    def keys(self, lines: _Lines) -> Iterator[str | None]:
        """Line by line, the value of the column; "": the object lacks it; None: a blank line."""
        for line in lines:
            if not line.strip():
                yield None
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{self._path}:{lines.number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"{self._path}:{lines.number} is no JSON object in one line")
            self.column = self.column or _column(self._path, list(row), self._columns)
            yield str(row.get(self.column) or "")

    def parse(self, data: bytes) -> dict[str, Any]:
        """The values of a line, of the types that they have."""
        return json.loads(to_text(data))

    def is_closed(self, data: bytes) -> bool:
        """True: what is not would be no JSON."""
        del data
        return True


def _column(path: str, found: list[str], wanted: Sequence[str]) -> str:
    column = next((name for name in wanted if name in found), None)
    if column is None:
        raise UserError(
            f"the table {path} needs one of the columns {', '.join(wanted)}; "
            f"it has {', '.join(found) or 'none'}"
        )
    return column


def _scan(
    keys: Iterator[str | None], lines: _Lines
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """Where rows begin and end (bytes), and a hash of the key of each."""
    begins, ends, hashes = array("q"), array("q"), array("Q")
    begin = lines.end
    for key in keys:
        if key is not None:
            begins.append(begin)
            ends.append(lines.end)
            # What has no key is like nothing else.
            key = (key or f"\0{begin}").encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(key, digest_size=8).digest()
            hashes.append(int.from_bytes(digest, "little"))
        begin = lines.end
    return np.array(begins, np.int64), np.array(ends, np.int64), np.array(hashes, np.uint64)


def _grouped(
    keys: UInt64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " m"]]:
    """The rows with those of equal keys together, groups by their first row; and groups' ends."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    ranks = rank[group]
    return np.argsort(ranks, kind="stable"), np.cumsum(np.bincount(ranks))
