"""Tars from their headers alone: ustar, GNU and pax, long names and sizes with them.

`tarfile` knows all of a tar; this finds places only, many times as fast. It is also a command that
does so in a process of its own, so it imports nothing that takes time to load.
"""

import json
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import crc32

BLOCK = 512  # bytes; headers and bodies are padded to multiples of it (by 511 and -512 below)
NUL = b"\0"
USTAR, GNU = b"ustar\0", b"ustar "
FILE = b"0"
FILES = (FILE, NUL, b"7")
WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders, of any "size"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, PAX_SUN = b"L", b"K", b"x", b"g", b"X"
EXTENDED = (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL, PAX_SUN)
MAX_EXTENDED = 1 << 20  # bytes of an extended header; one that has more is damaged

VIDEOS = ("mp4", "m4v", "mov", "avi", "webm", "mkv", "mpg", "mpeg")  # of no use beside an image
# Of a row: where the offset of a part is; its size follows, and is -1 if there is no such part.
COLUMNS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 2, "json": 4, "cls": 6}
COLUMNS |= dict.fromkeys(VIDEOS, 0)
ABSENT = (0, -1) * 4
CHUNK, MAX_CHUNK = 3 << 10, 12 << 10  # bytes: what mostly lies between two images
# Bytes of rows that follow (-1: it failed), samples, torn, checksum.
REPLY = struct.Struct("<qq?I")

_COLUMN = {name.encode(): column for name, column in COLUMNS.items()}
_VIDEOS = {name.encode() for name in VIDEOS}

# Name, size and the last byte of its field, type, magic, the first byte of the name's prefix.
_HEADER = struct.Struct("100s24x11ss20xs100x6s82xs166x")


def members(
    read: Callable[[int, int], bytes],
    size: int,
    chunk: int,
    max_chunk: int,
    checksum: list[int] | None = None,
) -> Iterator[tuple[bytes, int, int]]:
    """Goes through the regular files of a tar, without their bodies.

    Args:
      read: gives bytes of the tar from an offset on; fewer than asked for only at its end.
      size: of the tar, in bytes.
      chunk: bytes to ask for at a time; headers that lie this close cost one read.
      max_chunk: up to which this grows where it is a little too small.
      checksum: one number, which becomes the CRC-32 of the last block before each header and the
        name in it: what is read anyway.

    Yields:
      Name, offset and size of a file; the last may reach beyond the end of the tar.

    Raises:
      ValueError: there is neither a header nor an end mark where one should be.
    """
    begin = end = after = 0
    last = 0  # bytes before a header that are read with it: the last block of a file, or none
    checksum = [0] if checksum is None else checksum
    data = b""
    always: dict[bytes, bytes] = {}  # what extended headers say of all members that follow
    said: dict[bytes, bytes] = {}  # and, with those, of the next one
    while after < size:
        header, offset = after, after + BLOCK
        if offset > end:
            if end and header - end < chunk:
                chunk = min(2 * chunk, max_chunk)
            begin = header - last
            data = read(begin, chunk + last)
            end = begin + len(data)
            if offset > end:
                raise ValueError(f"ends within the header at byte {header}")
        at = header - begin
        checksum[0] = crc32(data[at - last : at + 100], checksum[0])
        last = 0
        name, digits, end_of_digits, kind, magic, prefix = _HEADER.unpack_from(data, at)
        if end_of_digits == NUL and digits.isdigit():
            length = int(digits, 8)
        else:
            length = number(digits + end_of_digits)
        after = (offset + length + 511) & -512
        if kind == FILE and prefix == NUL and magic == USTAR and not said:
            last = BLOCK if length else 0
            yield name.partition(NUL)[0], offset, length  # as nearly all members are
            continue
        if kind == PAX and magic == USTAR and offset + length <= end:
            body = data[offset - begin : offset - begin + length]
            if b"path=" not in body and b"size=" not in body:
                continue  # times only, as WebDataset writes before each member
        block = data[header - begin : offset - begin]
        if magic != USTAR and not any(block):
            return
        if magic != USTAR and not is_header(block):
            raise ValueError(f"no header at byte {header}")
        if kind in EXTENDED:
            if length > MAX_EXTENDED or offset + length > size:
                raise ValueError(f"the header at byte {header} goes beyond the end")
            inside = offset + length <= end
            body = (
                data[offset - begin : offset - begin + length] if inside else read(offset, length)
            )
            told = _extended(kind, body)
            said = told | said if kind == PAX_GLOBAL else said | told
            always |= told if kind == PAX_GLOBAL else {}
            continue
        name = said.get(b"path", _name(block))
        length = int(said.get(b"size", length))
        said = dict(always)
        if kind in WITHOUT_BODY or (kind == NUL and name.endswith(b"/")):
            length = 0
        elif kind in FILES:
            last = BLOCK if length else 0
            yield name, offset, length
        after = (offset + length + 511) & -512


class NoTar(Exception):
    """The file is something else; says what."""


class Samples(NamedTuple):
    """What a tar holds."""

    rows: array  # of int64: for each sample with an image, 4 times offset and size; see COLUMNS
    count: int  # of all samples
    torn: bool  # the tar ends within a member, or is damaged there
    checksum: int = 0  # CRC-32 of the rows, and of names and last blocks of all files


def samples(
    read: Callable[[int, int], bytes], size: int, chunk: int = CHUNK, max_chunk: int = MAX_CHUNK
) -> Samples:
    """Groups members as WebDataset does: those in a row with one name up to its first dot.

    Args:
      read: see `members`, as for the others.
      size: of the tar, in bytes.
      chunk: bytes to ask for at a time.
      max_chunk: up to which this grows.

    Raises:
      NoTar: it does not begin like one.
    """
    first = read(0, BLOCK)
    if first.startswith(b"\x1f\x8b"):
        raise NoTar("is compressed, which forbids random access; unpack it (gunzip)")
    if len(first) == BLOCK and any(first) and not is_header(first):
        raise NoTar(f"is no tar file: it begins with {first[:16]!r}")
    rows, count, torn = array("q"), 0, False
    row, start = list(ABSENT), b"\0"  # of the current sample; no name starts like this
    cut = offset = length = 0
    checksum = [0]
    try:
        for name, offset, length in members(read, size, chunk, max_chunk, checksum):
            if not name.startswith(start):
                folder = name.rfind(b"/") + 1
                dot = name.find(b".", folder)
                if dot <= folder:
                    continue  # a hidden file or one without extension: WebDataset skips it
                if row[1] >= 0:
                    rows.extend(row)
                cut = dot + 1
                row, start, count = list(ABSENT), name[:cut], count + 1
            extension = name[cut:]
            column = _COLUMN.get(extension)
            if column is None:
                column = _COLUMN.get(extension.lower())
            if column is None or (row[1] >= 0 and extension.lower() in _VIDEOS):
                continue
            row[column], row[column + 1] = offset, length
    except (ValueError, EOFError):
        torn = True
    if offset + length > size:
        torn = True
        if name.startswith(start):  # the last sample lacks a part
            row, count = list(ABSENT), count - 1
    if row[1] >= 0:
        rows.extend(row)
    return Samples(rows, count, torn, crc32(rows, checksum[0]))


def samples_of_file(path: str, size: int) -> Samples:
    """The same of a local file of `size` bytes.

    Raises:
      NoTar: it does not begin like one.
      OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        return samples(lambda at, length: os.pread(descriptor, length, at), size)


def is_header(block: bytes) -> bool:
    """By its magic; the oldest tars have none, but a sum of all bytes but the sum's own."""
    if block.startswith(b"ustar", 257):
        return True
    try:
        stated = int(block[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def number(field: bytes) -> int:
    """A number in octal, or in binary as GNU writes those of 8 GiB and more; 0 if it is blank.

    Raises:
      ValueError: it is neither.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    value = int(field.partition(NUL)[0].strip() or b"0", 8)
    if value < 0:
        raise ValueError(f"a size of {value}")
    return value


def _name(block: bytes) -> bytes:
    """The name, which ustar splits if it is long; GNU keeps times in that place."""
    prefix = block[345:500].partition(NUL)[0] if block[257:263] == USTAR else b""
    return (prefix + b"/" if prefix else b"") + block[:100].partition(NUL)[0]


def _extended(kind: bytes, body: bytes) -> dict[bytes, bytes]:
    """The path and the size, if any, that an extended header has for what follows."""
    if kind == LONG_NAME:
        return {b"path": body.partition(NUL)[0]}
    found: dict[bytes, bytes] = {}
    if kind == LONG_LINK:
        return found
    while body.strip(NUL):
        length = body.partition(b" ")[0]  # of a record such as "18 path=a/b/c.jpg\n"
        key, equals, value = body[len(length) + 1 : int(length)].partition(b"=")
        value = value.removesuffix(b"\n")
        if not equals or not length.isdigit() or (key == b"size" and not value.isdigit()):
            raise ValueError(f"{body[:40]!r} is no record of a pax header")
        if key in (b"path", b"size"):
            found[key] = value
        body = body[int(length) :]
    return found


def _serve() -> None:
    """Answers each line of standard input, a path and a size, with a REPLY and rows."""
    for line in sys.stdin:
        try:
            rows, *rest = samples_of_file(*json.loads(line))
            data = rows.tobytes()
            reply = REPLY.pack(len(data), *rest) + data
        except Exception:
            reply = REPLY.pack(-1, 0, False, 0)  # who asked tries it and sees what is wrong
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
