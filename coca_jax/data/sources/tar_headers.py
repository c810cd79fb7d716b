"""The members of a tar from its headers alone: ustar, GNU and pax, long names and sizes with them.

`tarfile` knows all of a tar; this finds names and places only, many times as fast.
"""

import struct
from collections.abc import Callable, Iterator

BLOCK = 512  # bytes; headers and bodies are padded to multiples of it
NUL = b"\0"
USTAR, GNU = b"ustar\0", b"ustar "
FILE = b"0"
FILES = (FILE, NUL, b"7")
WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders, of any "size"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, PAX_SUN = b"L", b"K", b"x", b"g", b"X"
EXTENDED = (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL, PAX_SUN)
MAX_EXTENDED = 1 << 20  # bytes of an extended header; one that has more is damaged

# Name, size and the last byte of its field, type, magic, the first byte of the name's prefix.
_HEADER = struct.Struct("100s24x11ss20xs100x6s82xs166x")


def members(
    read: Callable[[int, int], bytes], size: int, chunk: int, max_chunk: int
) -> Iterator[tuple[bytes, int, int]]:
    """Goes through the regular files of a tar, without their bodies.

    Args:
      read: gives bytes of the tar from an offset on; fewer than asked for only at its end.
      size: of the tar, in bytes.
      chunk: bytes to ask for at a time; headers that lie this close cost one read.
      max_chunk: up to which this grows where it is a little too small.

    Yields:
      Name, offset and size of a file; the last may reach beyond the end of the tar.

    Raises:
      ValueError: there is neither a header nor an end mark where one should be.
    """
    begin = end = after = 0
    data = b""
    always: dict[bytes, bytes] = {}  # what extended headers say of all members that follow,
    said: dict[bytes, bytes] = {}  # and of the next one
    while after < size:
        header, offset = after, after + BLOCK
        if offset > end:
            if end and header - end < chunk:
                chunk = min(2 * chunk, max_chunk)
            data = read(header, chunk)
            begin, end = header, header + len(data)
            if offset > end:
                raise ValueError(f"ends within the header at byte {header}")
        name, digits, last, kind, magic, prefix = _HEADER.unpack_from(data, header - begin)
        plain = last == NUL and b"0" <= digits < b"8"
        length = int(digits, 8) if plain else number(digits + last)
        after = offset + (length + BLOCK - 1 & -BLOCK)
        if kind == FILE and prefix == NUL and magic == USTAR and not (said or always):
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
            (always if kind == PAX_GLOBAL else said).update(_extended(kind, body))
            continue
        told, said = always | said, {}
        name = told.get(b"path", _name(block))
        length = int(told.get(b"size", length))
        if kind in WITHOUT_BODY or (kind == NUL and name.endswith(b"/")):
            length = 0
        elif kind in FILES:
            yield name, offset, length
        after = offset + (length + BLOCK - 1 & -BLOCK)


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
