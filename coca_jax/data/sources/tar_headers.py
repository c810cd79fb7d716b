"""Tars from their headers alone: ustar, GNU and pax, long names and sizes with them.

`tarfile` knows all of a tar; this finds places only, many times as fast. It is also a command that
does so in a process of its own, so it imports nothing that takes time to load.
"""

import json
import os
import re
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

BLOCK = 512  # bytes; headers and bodies are padded to multiples of it (by 511 and -512 below)
NUL = b"\0"
USTAR, GNU = b"ustar\0", b"ustar "
FILE = b"0"
FILES = (FILE, NUL, b"7")
WITHOUT_BODY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and folders, of any "size"
LINKS = (b"1", b"2")
SPARSE = b"S"
PASSED_OVER = (b"5", b"D", b"V")  # folders, lists of what is in them, labels
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, PAX_SUN = b"L", b"K", b"x", b"g", b"X"
EXTENDED = (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL, PAX_SUN)
MAX_EXTENDED = 1 << 20  # bytes of an extended header; one that has more is damaged

LINK, SPECIAL = -1, -2  # instead of the size of what has no bytes of its own to read
ABSENT = (0, -1) * 4
CHUNK, MAX_CHUNK = 3 << 10, 12 << 10  # bytes: what mostly lies between two images
PADDING = 1 << 20  # bytes that are read at a time after an end mark
EXTENSIONS = 20  # of a tar that are kept for a note, at most
# Bytes of rows that follow (-1: it failed), samples, bytes of notes, checksum.
REPLY = struct.Struct("<qqqI")

# Name, size and the last byte of its field, type, magic, the first byte of the name's prefix.
_HEADER = struct.Struct("100s24x11ss20xs100x6s82xs166x")


def members(
    read: Callable[[int, int], bytes],
    size: int,
    chunk: int,
    max_chunk: int,
    log: "Log | None" = None,
) -> Iterator[tuple[bytes, int, int]]:
    """Goes through the files of a tar, without their bodies, and of tars that are joined to it.

    Args:
      read: gives bytes of the tar from an offset on; fewer than asked for only at its end.
      size: of the tar, in bytes.
      chunk: bytes to ask for at a time; headers that lie this close cost one read.
      max_chunk: up to which this grows where it is a little too small.
      log: notes what is odd about the end. Its checksum becomes the CRC-32 of the last block before
        each header and the name in it: what is read anyway.

    Yields:
      Name, offset and size of a file, or LINK or SPECIAL; the last may reach beyond the end.

    Raises:
      ValueError: there is neither a header nor an end mark where one should be.
    """
    begin = end = after = 0
    last = 0  # bytes before a header that are read with it: the last block of a file, or none
    log = log or Log()
    data = b""
    always: dict[bytes, bytes] = {}  # what extended headers say of all members that follow
    said: dict[bytes, bytes] = {}  # and, with those, of the next one
    ended = False  # by a mark
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
        log.checksum = crc32(data[at - last : at + 100], log.checksum)
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
            after, ended = _past_zeros(read, offset, size, data[offset - begin :]), True
            if after < size and not is_header(read(after, BLOCK)):
                log.note("after_end", b"byte %d" % after)
                break
            continue
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
        plain = kind in FILES and b"sparse" not in said
        folder = kind in PASSED_OVER or (kind == NUL and name.endswith(b"/"))
        said = dict(always)
        if kind == SPARSE and block[482]:  # its list of holes goes on in blocks of its own
            offset = _past_holes(read, offset, size)
        if kind in WITHOUT_BODY or (kind == NUL and name.endswith(b"/")):
            length = 0
        after = (offset + length + 511) & -512
        if not folder:
            last = BLOCK if plain and length else 0
            yield name, offset, length if plain else LINK if kind in LINKS else SPECIAL
    if not ended:
        log.note("no_end", b"")


def _past_zeros(read: Callable[[int, int], bytes], at: int, size: int, data: bytes) -> int:
    """The first block that is not zero, if there is one: tars may be joined by `cat`.

    Args:
      read: see `members`.
      at: where to begin.
      size: of the tar.
      data: what is known to be there.
    """
    while not (rest := data.lstrip(NUL)):
        at += len(data)
        data = read(at, PADDING) if at < size else b""
        if not data:
            return size
    return (at + len(data) - len(rest)) // BLOCK * BLOCK


def _past_holes(read: Callable[[int, int], bytes], at: int, size: int) -> int:
    while at < size:
        block, at = read(at, BLOCK), at + BLOCK
        if len(block) < BLOCK or not block[504]:
            break
    return at


class Log:
    """What was odd about a tar, and a checksum of it."""

    def __init__(self):
        self.checksum = 0
        self.notes: Notes = {}

    def note(self, kind: str, name: bytes, extensions: Sequence[str] = ()) -> None:
        """Counts one thing of a kind.

        Args:
          kind: of it.
          name: of its first member, or what is known of it.
          extensions: that are to be counted, too.
        """
        count, first, counts = self.notes.get(kind) or (0, _text(name), {})
        for extension in extensions:
            counts[extension] = counts.get(extension, 0) + 1
        self.notes[kind] = (count + 1, first, counts)

    def shortened(self) -> "Notes":
        """The notes with the commonest extensions alone."""
        found = {}
        for kind, (count, first, counts) in self.notes.items():
            common = sorted(counts, key=lambda name: (-counts[name], name))[:EXTENSIONS]
            found[kind] = (count, first, {name: counts[name] for name in common})
        return found


class NoTar(Exception):
    """The file is something else; `args` are its first bytes."""


class Options(NamedTuple):
    """How the members of a tar are taken."""

    # By extension, in lower case: where in a row the offset of a part is, and which of several is
    # taken, the lowest. Its size follows, and is -1 if there is no such part.
    columns: dict[str, tuple[int, int]]
    hidden: str  # a regular expression of names of files and folders that are skipped


class Samples(NamedTuple):
    """What a tar holds."""

    rows: array  # of int64: for each sample with an image, 4 times offset and size
    count: int  # of all samples
    notes: "Notes"
    checksum: int  # CRC-32 of the rows, and of names and last blocks of all files


# What was odd, by its kind: how often, where first, and how often with which extensions.
Notes = dict[str, tuple[int, str, dict[str, int]]]


def samples(
    read: Callable[[int, int], bytes],
    size: int,
    options: Options,
    chunk: int = CHUNK,
    max_chunk: int = MAX_CHUNK,
) -> Samples:
    """Groups members by their key, which is the name up to its first dot.

    Those with one key need not be side by side. But where a part of a sample is there again after
    other samples, it begins another one, as WebDataset reads it: keys may start anew.

    Args:
      read: see `members`, as for the others.
      size: of the tar, in bytes.
      options: which extensions are images, and so on.
      chunk: bytes to ask for at a time.
      max_chunk: up to which this grows.

    Raises:
      NoTar: it does not begin like one.
    """
    first = read(0, BLOCK)
    if any(first) and (len(first) < BLOCK or not is_header(first)):
        raise NoTar(first)
    log = Log()
    groups = _Groups(log)
    columns = {name.encode(): place for name, place in options.columns.items()}
    hidden = re.compile(options.hidden.encode(), re.IGNORECASE)
    row, start = list(ABSENT), NUL  # of the current group; no name starts like this
    taken, others = [b""] * 8, []  # extensions of its parts, and those of no use
    key, cut, offset, length, name, folder, concealed = b"", 0, 0, 0, b"", b"", False
    try:
        for name, offset, length in members(read, size, chunk, max_chunk, log):
            if not name.startswith(start):
                base = name.rfind(b"/") + 1
                if name[:base] != folder:
                    folder = name[:base]
                    concealed = any(map(hidden.match, folder.split(b"/")))
                if concealed or hidden.match(name, base):
                    log.note("hidden", name)
                    continue
                dot = name.find(b".", base)
                if dot < 0:
                    log.note("no_extension", name)
                    continue
                if start != NUL:
                    groups.close(key, row, others)
                cut, start, key = dot + 1, name[: dot + 1], name[:dot]
                if key.startswith((b".", b"/")):
                    key = _relative(key)
                row, taken, others = list(ABSENT), [b""] * 8, []
            extension = name[cut:]
            place = columns.get(extension) or columns.get(extension.lower())
            if length < 0:
                log.note("link" if length == LINK else "special", name)
                others.append(extension)
            elif place is None:
                others.append(extension)
            else:
                column, rank = place
                if before := taken[column]:
                    log.note("duplicate" if before == extension else "several", name)
                    if rank > columns[before.lower()][1]:
                        continue
                taken[column], row[column], row[column + 1] = extension, offset, length
    except (ValueError, EOFError) as error:
        log.note("cut_off", str(error).encode())
    if start != NUL:
        groups.close(key, row, others)
    if offset + length > size:
        log.notes.pop("no_end", None)
        log.note("cut_off", b"it ends within " + name)
        if name.startswith(start):
            groups.drop_last()
    return groups.finish()


class _Groups:
    """Members that were side by side and share a key, joined to samples."""

    def __init__(self, log: Log):
        self._log = log
        self._rows = array("q")
        self._places: dict[bytes, int] = {}  # in the rows, of the last sample of each key
        self._odd: dict[int, tuple[bytes, list[bytes]]] = {}  # samples' key and other extensions
        self._last, self._dropped = 0, 0

    def close(self, key: bytes, row: list[int], others: list[bytes]) -> None:
        """Joins a group to what there is of its sample, or makes it one of its own."""
        rows = self._rows
        place = self._places.setdefault(key, end := len(rows))
        if place != end:
            before = rows[place : place + 8]
            if any(before[i] >= 0 and row[i] >= 0 for i in (1, 3, 5, 7)):
                self._log.note("repeated", key)
                self._places[key] = place = end
            else:
                self._log.note("apart", key)
                row = [*map(max, before, row)]  # what one of them lacks is (0, -1)
        if place == end:
            rows.extend(row)
        else:
            rows[place : place + 8] = array("q", row)
        self._last = place
        if row[1] < 0 or (row[3] < 0 and row[5] < 0 and row[7] < 0):
            self._odd.setdefault(place, (key, []))[1].extend(others)

    def drop_last(self) -> None:
        """Leaves out the sample that the last group belongs to."""
        self._rows[self._last : self._last + 8] = array("q", ABSENT)
        self._odd.pop(self._last, None)
        self._dropped += 1

    def finish(self) -> Samples:
        """The samples that have an image."""
        names = {3: ".txt", 5: ".json", 7: ".cls"}
        count = len(self._rows) // 8 - self._dropped
        left_out = 0
        for place, (key, others) in self._odd.items():
            row = self._rows[place : place + 8]
            met = [names[i] for i in names if row[i] >= 0]
            if row[1] < 0:
                left_out += 1
                self._log.note(
                    "without_image", key, [*met, *(f".{_text(name)}" for name in others)]
                )
            elif not met:
                self._log.note("without_text", key, [f".{_text(name)}" for name in others])
        rows = self._rows
        if left_out or self._dropped:
            rows = array("q")
            for i in range(0, len(self._rows), 8):
                if self._rows[i + 1] >= 0:
                    rows.extend(self._rows[i : i + 8])
        return Samples(rows, count, self._log.shortened(), crc32(rows, self._log.checksum))


def _relative(name: bytes) -> bytes:
    """A name without the `./` or `/` that some members of a tar may have before it."""
    while name.startswith((b"./", b"/")):
        name = name.partition(b"/")[2]
    return name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def samples_of_file(path: str, size: int, options: Options) -> Samples:
    """The same of a local file of `size` bytes.

    Raises:
      NoTar: it does not begin like one.
      OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        return samples(lambda at, length: os.pread(descriptor, length, at), size, options)


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
        if key.startswith(b"GNU.sparse."):
            found[b"sparse"] = b""
            found |= {b"path": value} if key == b"GNU.sparse.name" else {}
        body = body[int(length) :]
    return found


def _serve() -> None:
    """Answers each line of standard input, a path and a size, with a REPLY, rows and notes."""
    options = Options(*json.loads(sys.argv[1]))
    for line in sys.stdin:
        try:
            rows, count, notes, checksum = samples_of_file(*json.loads(line), options)
            data, told = rows.tobytes(), json.dumps(notes).encode()
            reply = REPLY.pack(len(data), count, len(told), checksum) + data + told
        except Exception:
            reply = REPLY.pack(-1, 0, 0, 0)  # who asked tries it and sees what is wrong
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
