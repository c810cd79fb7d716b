"""Rows of .csv and .tsv files: values between separators, some of them in quotes.

With commas, a value in quotes may hold separators, line breaks and doubled quotes. With tabs each
line is a row and a quote is a plain character, except in values that Python's csv module or pandas
had to quote, as in OpenCLIP's tables. A quote that is never closed damages its own row, or is
refused with its line; it never swallows the rows after it.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.base import base_name, to_text
from coca_jax.data.sources.lines import BOM, Lines, is_utf8
from coca_jax.errors import UserError

SEPARATORS = (",", "\t", ";", "|")
# What is wrong with a row.
NO_PATH, NOT_UTF8, WRONG_COUNT, UNCLOSED = "no_path", "not_utf8", "wrong_count", "unclosed"

_SEP_LINE = re.compile(r'"?sep=([,;|\t])"?\s*', re.IGNORECASE)  # Excel's
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_ADDRESS_OR_SUFFIX = re.compile(r"\s*(\w+://)|.*(\.\w{2,5})\s*$", re.DOTALL)
_MAX_VALUE = 2**31 - 1  # characters; the csv module's default limit is 131,072


class Delimited:
    """The rows of a .csv or .tsv file."""

    def __init__(self, lines: Lines, path: str, columns: Sequence[str]):
        """Reads the header.

        Args:
          lines: of the file; the header is read from them.
          path: of the file.
          columns: the first of these that the file has tells entries apart.

        Raises:
          UserError: the file has none of `columns`, or two columns of the same name.
        """
        csv.field_size_limit(_MAX_VALUE)
        self._path = path
        header = next((line for line in lines if line.strip()), "")
        separators = sorted(SEPARATORS, key=lambda s: s != "\t") if is_tsv(path) else SEPARATORS
        if stated := _SEP_LINE.fullmatch(header):
            separators, header = (stated[1],), next(lines, "")
        if not is_utf8(header):
            raise UserError(f"{path}:{lines.number}: the header of a table should be UTF-8")
        self.separator = max(separators, key=lambda s: _fit(_names(header, s), columns))
        self.names = _names(header, self.separator)
        self.column = choose_column(path, self.names, columns)
        if twice := {name for name in self.names if name and self.names.count(name) > 1}:
            raise UserError(f"{path}:{lines.number}: several columns are named {min(twice)!r}")
        self._place = self.names.index(self.column)
        self._tabs = self.separator == "\t"
        # csv's QUOTE_ALL and QUOTE_NONNUMERIC quote the header, too: no quote is a character then.
        self._all_quoted = all(map(_QUOTED.fullmatch, _split(header, self.separator)))

    def keys(self, lines: Lines) -> Iterator[tuple[str | None, str]]:
        """Yields for each row, which ends at `lines.end`, the value of the column and an error.

        The value is None for an empty row, and "" for a row with an error.

        Raises:
          UserError: a quote is not closed in front of what looks like another row.
        """
        for line in lines:
            values = self._values(line.removeprefix(BOM), lines)
            if values is None:
                yield "", UNCLOSED
            elif not any(map(str.strip, values)):
                yield None, ""
            elif len(values) != len(self.names):
                yield "", WRONG_COUNT
            elif not all(map(str.isascii, values)) and not all(map(is_utf8, values)):
                yield "", NOT_UTF8
            else:
                key = values[self._place]
                yield key, "" if key else NO_PATH

    def parse(self, data: bytes) -> dict[str, str]:
        """The values of a row as texts, by the names of columns.

        Raises:
          BadExample: they are too many or too few, or not UTF-8.
        """
        values = self._values(to_text(data), None)
        if values is None or len(values) != len(self.names):
            count = "no" if values is None else len(values)
            raise BadExample("bad_record", f"{count} values in {len(self.names)} columns")
        return {name: v for name, v in zip(self.names, values, strict=True) if name}

    def _values(self, line: str, more: Lines | None) -> list[str] | None:
        """The values of a row that begins with a line and may go on in `more`; None: unclosed."""
        if '"' not in line:
            return self._trimmed(_split(line, self.separator))
        read = self._between_tabs if self._tabs else self._between_commas
        values = read(line, more)
        return values and self._trimmed(values)

    def _between_tabs(self, line: str, more: Lines | None) -> list[str]:
        values = _split(line, "\t")
        is_open = values[-1].startswith('"') and not _QUOTED.fullmatch(values[-1])
        if self._all_quoted or is_open or len(values) != len(self.names):
            quoted, taken = self._strict(line, more)
            if quoted is not None and len(quoted) == len(self.names):
                return quoted
            if more is not None:
                more.give_back(taken)
        return [_unquoted(value) for value in values]

    def _between_commas(self, line: str, more: Lines | None) -> list[str] | None:
        values, taken = self._strict(line, more)
        if values is not None:
            return values
        if taken and more is not None:
            raise UserError(
                f"{self._path}:{more.number - len(taken)}: a quote of this row is not closed "
                f"before line {more.number}; close it, or write it twice if it belongs to the text"
            )
        try:
            list(csv.reader([line], delimiter=self.separator, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                return None
        return _lenient(line, self.separator)

    def _strict(self, line: str, more: Lines | None) -> tuple[list[str] | None, list[str]]:
        """The values, None if quotes are amiss; and the lines that it took, in vain or not."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            yield line
            for following in more or ():
                taken.append(following)
                if self._is_row(following, line):
                    return
                yield following

        try:
            return next(csv.reader(lines(), delimiter=self.separator, strict=True)), taken
        except csv.Error:
            return None, taken

    def _is_row(self, line: str, before: str) -> bool:
        """Whether a line looks like a row, and not like more text of the row before."""
        values = _split(line, self.separator)
        if len(values) != len(self.names):
            return False
        key, so_far = values[self._place], _split(before, self.separator)
        if kinds := {_path_kind(value) for value in so_far} - {""}:
            return _path_kind(key) in kinds
        # Commas are common in texts, and tabs are not.
        is_clean = all('"' not in value or _QUOTED.fullmatch(value) for value in values)
        return self._tabs and bool(key.strip()) and (is_clean or len(so_far) == len(values))

    def _trimmed(self, values: list[str]) -> list[str]:
        """The values without empty ones after the last column."""
        while len(values) > len(self.names) and not values[-1]:
            values.pop()
        return values


def is_tsv(path: str) -> bool:
    """Whether a file's name says that tabs separate its values."""
    return base_name(path).lower().endswith(".tsv")


def column_of(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted columns that a table has, as the table spells it; None: none.

    Upper and lower case are equal, as in LAION's `TEXT`.
    """
    by_lower = {name.lower(): name for name in names}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def choose_column(path: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    """The first of the wanted columns that a table has, as the table spells it.

    Raises:
      UserError: it has none.
    """
    column = column_of(names, wanted)
    if column is None:
        has_urls = column_of(names, ("url", "urls", "image_url", "image_urls"))
        hint = f"; img2dataset downloads what column {has_urls!r} names" if has_urls else ""
        raise UserError(
            f"the table {path} needs one of the columns {', '.join(wanted)}; "
            f"it has {', '.join(names) or 'none'}{hint}"
        )
    return column


def _fit(names: Sequence[str], wanted: Sequence[str]) -> tuple[bool, int]:
    """A score of how well a separator fits a header that it splits into these names."""
    return column_of(names, wanted) is not None, len(names)


def _names(header: str, separator: str) -> list[str]:
    names = [value.strip() for value in _lenient(header, separator)]
    while names and not names[-1]:
        names.pop()
    return names


def _split(line: str, separator: str) -> list[str]:
    return line.removesuffix("\n").removesuffix("\r").split(separator)


def _lenient(line: str, separator: str) -> list[str]:
    """The values of one line as the csv module reads them, with any quotes: `"big" cat`."""
    text = line.rstrip("\r\n")
    try:
        return next(csv.reader([text], delimiter=separator), [])
    except csv.Error:  # a lone CR
        return text.split(separator)


def _unquoted(value: str) -> str:
    """A value without the quotes that csv and pandas put around quotes, line breaks and nothing."""
    quoted = _QUOTED.fullmatch(value)
    if quoted and (not quoted[1] or re.search(r'""|[\r\n]', quoted[1])):
        return quoted[1].replace('""', '"')
    return value


def _path_kind(value: str) -> str:
    """The scheme of an address, or the suffix of a file; empty: neither."""
    match = _ADDRESS_OR_SUFFIX.match(value.strip('" '))
    return (match[1] or match[2]).lower() if match else ""
