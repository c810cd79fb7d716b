"""Lines of a text file with their offsets in bytes, whatever system wrote it."""

import codecs
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from coca_jax.errors import UserError

_HEAD = 1 << 16  # bytes at the beginning, which show the encoding and the ends of lines
BOM = "\ufeff"  # at the beginning, and where files were joined
# The mark of UTF-32 begins with that of UTF-16.
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Lines(Iterator[str]):
    """Lines that end with LF, CR LF, or, in a file without LF, with CR.

    A byte that is not UTF-8 becomes half a surrogate pair (`surrogateescape`), so that it damages
    its own line only.

    Attributes:
      end: the offset of the end of the last line that was returned.
      number: of that line, from 1.
      checksum: CRC-32 of all bytes that were read.
    """

    def __init__(self, file: Any, path: str):
        """Begins to read a binary file that can seek.

        Raises:
          UserError: it is in another encoding than UTF-8.
        """
        self.end = self.number = self.checksum = 0
        head = file.read(_HEAD)
        file.seek(0)
        _require_utf8(head, path)
        self._lines = iter(file if b"\n" in head or b"\r" not in head else _ended_by_cr(file))
        self._returned: list[str] = []

    def __next__(self) -> str:
        if self._returned:
            line = self._returned.pop()
            self.end += _size(line)
        else:
            data = next(self._lines)
            self.end += len(data)
            self.checksum = zlib.crc32(data, self.checksum)
            line = decode(data if self.number else data.removeprefix(codecs.BOM_UTF8))
        self.number += 1
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        """Returns the last lines to the reader; the first line of the file cannot be returned."""
        self._returned += reversed(lines)
        self.number -= len(lines)
        self.end -= sum(map(_size, lines))


def decode(data: bytes) -> str:
    """UTF-8 as text; other bytes as half surrogate pairs."""
    return data.decode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Whether what `decode` read was UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(line: str) -> int:
    return len(line.encode("utf-8", "surrogateescape"))


def _require_utf8(head: bytes, path: str) -> None:
    name = next((name for bom, name in _BOMS.items() if head.startswith(bom)), "")
    if not name and head.count(0) > len(head) // 4:  # every other byte of text in Latin letters
        name = "UTF-16LE" if head[1:2] == b"\0" else "UTF-16BE"
    if name:
        raise UserError(
            f"{path} is {name}, and should be UTF-8: "
            f"`iconv -f {name} -t UTF-8 {path} > NEW_FILE` converts it"
        )


def _ended_by_cr(file: Any) -> Iterable[bytes]:
    rest = b""
    while chunk := file.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\r")
        yield from (line + b"\r" for line in lines)
    if rest:
        yield rest
