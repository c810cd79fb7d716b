"""Tars from their headers alone: ustar, GNU and pax, with long names and sizes.

`tarfile` reads everything of a tar; this finds only where members are, many times as fast. It is
also a command that answers requests in a process of its own (`tar_index.py` says why): so it is one
file, and imports nothing that takes time to load.
"""

import json
import os
import re
import signal
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
IGNORED = (b"5", b"D", b"V")  # folders, lists of their content, labels
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, PAX_SUN = b"L", b"K", b"x", b"g", b"X"
EXTENDED = (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL, PAX_SUN)
MAX_EXTENDED = 1 << 20  # bytes of an extended header; one that has more is damaged

LINK, SPECIAL = -1, -2  # in place of a size: members without bytes of their own to read
ABSENT = (0, -1) * 4
CHUNK, MAX_CHUNK = 3 << 10, 12 << 10  # bytes: the usual distance between two images
PADDING = 1 << 20  # bytes that are read at a time after an end mark
EXTENSIONS = 20  # at most, of a tar, that a note keeps
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
      read: returns bytes of the tar from an offset on; fewer than asked for only at its end.
      size: of the tar, in bytes.
      chunk: bytes to read at a time; headers that are this close to each other cost one read.
      max_chunk: the limit up to which this grows where it is a little too small.
      log: gets notes on the end of the tar. Its checksum becomes the CRC-32 of the last block
        before each header and of the name in the header, which are read anyway.

    Yields:
      Name, offset and size of a file, or LINK or SPECIAL; the last may reach beyond the end.

    Raises:
      ValueError: there is neither a header nor an end mark where one should be.
    """
    begin = end = after = 0
    last = 0  # bytes before a header that are read with it: the last block of a file, or 0
    log = log or Log()
    data = b""
    for_all: dict[bytes, bytes] = {}  # values of extended headers for all members that follow
    for_next: dict[bytes, bytes] = {}  # and, with those, for the next one
    has_end_mark = False
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
        if kind == FILE and prefix == NUL and magic == USTAR and not for_next:
            last = BLOCK if length else 0
            yield name.partition(NUL)[0], offset, length  # as nearly all members are
            continue
        if kind == PAX and magic == USTAR and offset + length <= end:
            body = data[offset - begin : offset - begin + length]
            if b"path=" not in body and b"size=" not in body:
                continue  # times only, as WebDataset writes before each member
        block = data[header - begin : offset - begin]
        if magic != USTAR and not any(block):
            after, has_end_mark = _past_zeros(read, offset, size, data[offset - begin :]), True
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
            values = extended_values(kind, body)
            for_next = values | for_next if kind == PAX_GLOBAL else for_next | values
            for_all |= values if kind == PAX_GLOBAL else {}
            continue
        name, offset, length, after = _member(read, size, block, offset, length, for_next)
        for_next = dict(for_all)
        if length is not None:
            last = BLOCK if length > 0 else 0
            yield name, offset, length
    if not has_end_mark:
        log.note("no_end", b"")


def _member(
    read: Callable[[int, int], bytes],
    size: int,
    block: bytes,
    offset: int,
    length: int,
    extended: dict[bytes, bytes],
) -> tuple[bytes, int, int | None, int]:
    """A member of any type but an extended header.

    Args:
      read: see `members`.
      size: of the tar.
      block: its header.
      offset: of what follows the header.
      length: that the header states.
      extended: values of extended headers before it.

    Returns:
      Its name, offset, and size (LINK or SPECIAL; None: it is ignored), and the end of its body.
    """
    kind, name = block[156:157], extended.get(b"path", header_name(block))
    length = int(extended.get(b"size", length))
    is_old_folder = kind == NUL and name.endswith(b"/")
    if kind == SPARSE and block[482]:  # its list of holes goes on in blocks of its own
        offset = _past_holes(read, offset, size)
    if kind in WITHOUT_BODY or is_old_folder:
        length = 0
    end = (offset + length + 511) & -512
    if kind in IGNORED or is_old_folder:
        return name, offset, None, end
    if kind in FILES and b"sparse" not in extended:
        return name, offset, length, end
    return name, offset, LINK if kind in LINKS else SPECIAL, end


def _past_zeros(read: Callable[[int, int], bytes], at: int, size: int, data: bytes) -> int:
    """The offset of the first block that is not zero, or the size: tars may be joined by `cat`.

    Args:
      read: see `members`.
      at: the offset to begin at.
      size: of the tar.
      data: the bytes there, as far as they have been read.
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
    """Notes on what was unusual about a tar, and a checksum of it."""

    def __init__(self):
        self.checksum = 0
        self.notes: Notes = {}

    def note(self, kind: str, name: bytes, extensions: Sequence[str] = ()) -> None:
        """Counts one more thing of a kind.

        Args:
          kind: such as "hidden"; `tar_notes.py` has a sentence for each.
          name: of the member; the first one of a kind is kept.
          extensions: further extensions to count.
        """
        count, first, counts = self.notes.get(kind) or (0, _text(name), {})
        for extension in extensions:
            counts[extension] = counts.get(extension, 0) + 1
        self.notes[kind] = (count + 1, first, counts)

    def shortened(self) -> "Notes":
        """The notes with their EXTENSIONS commonest extensions only."""
        notes = {}
        for kind, (count, first, counts) in self.notes.items():
            common = sorted(counts, key=lambda name: (-counts[name], name))[:EXTENSIONS]
            notes[kind] = (count, first, {name: counts[name] for name in common})
        return notes


class NoTar(Exception):
    """The file is not a tar; `args` are its first bytes."""


class Options(NamedTuple):
    """Options that say which members of a tar are read, and as which part of a sample."""

    # By extension in lower case: the column of a row that holds the part's offset, before its size
    # (-1: there is no such part); and a rank, the lowest of which is read.
    columns: dict[str, tuple[int, int]]
    hidden: str  # a regular expression for names of files and folders that are skipped


class Samples(NamedTuple):
    """The samples of a tar."""

    rows: array  # of int64: for each sample with an image, offset and size of its four parts
    count: int  # of all samples
    notes: "Notes"
    checksum: int  # CRC-32 of the rows, and of names and last blocks of all files


# By kind: a count, the first name, and counts by extension.
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
      read: see `members`.
      size: of the tar, in bytes.
      options: which extensions are which parts.
      chunk: bytes to read at a time.
      max_chunk: the limit up to which this grows.

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
    group, start, cut = None, NUL, 0  # no name starts like this
    name, offset, length, folder, is_folder_hidden = b"", 0, 0, b"", False
    for name, offset, length in _until_damaged(members(read, size, chunk, max_chunk, log), log):
        if not name.startswith(start):
            base = name.rfind(b"/") + 1
            if name[:base] != folder:
                folder = name[:base]
                is_folder_hidden = any(map(hidden.match, folder.split(b"/")))
            if is_folder_hidden or hidden.match(name, base):
                log.note("hidden", name)
                continue
            dot = name.find(b".", base)
            if dot < 0:
                log.note("no_extension", name)
                continue
            if group:
                groups.close(group)
            cut, start, group = dot + 1, name[: dot + 1], _Group(_relative(name[:dot]))
        group.add(name, name[cut:], offset, length, columns, log)
    if group:
        groups.close(group)
    if offset + length > size:
        log.notes.pop("no_end", None)
        log.note("cut_off", b"it ends within " + name)
        if name.startswith(start):
            groups.drop_last()
    return groups.finish()


def _until_damaged(
    files: Iterator[tuple[bytes, int, int]], log: Log
) -> Iterator[tuple[bytes, int, int]]:
    try:
        yield from files
    except (ValueError, EOFError) as error:
        log.note("cut_off", str(error).encode())


class _Group:
    """Members that are side by side and share a key."""

    def __init__(self, key: bytes):
        self.key, self.row = key, list(ABSENT)
        self.others: list[bytes] = []  # extensions of members that are not part
        self._taken = [b""] * 8  # extensions of the parts

    def add(
        self,
        name: bytes,
        extension: bytes,
        offset: int,
        length: int,
        columns: dict[bytes, tuple[int, int]],
        log: Log,
    ) -> None:
        """Takes a member as a part of the sample, if it is one."""
        place = columns.get(extension) or columns.get(extension.lower())
        if length < 0:
            log.note("link" if length == LINK else "special", name)
            self.others.append(extension)
        elif place is None:
            self.others.append(extension)
        else:
            column, rank = place
            if before := self._taken[column]:
                log.note("duplicate" if before == extension else "several", name)
                if rank > columns[before.lower()][1]:
                    return
            self._taken[column] = extension
            self.row[column : column + 2] = offset, length


class _Groups:
    """Samples: groups with the same key, joined."""

    def __init__(self, log: Log):
        self._log = log
        self._rows = array("q")
        self._places: dict[bytes, int] = {}  # in the rows, of the last sample of each key
        self._incomplete: dict[int, tuple[bytes, list[bytes]]] = {}  # key and other extensions
        self._last, self._dropped = 0, 0

    def close(self, group: _Group) -> None:
        """Joins a group to the other parts of its sample, or makes a sample of it."""
        rows, key, row = self._rows, group.key, group.row
        place = self._places.setdefault(key, end := len(rows))
        if place != end:
            before = rows[place : place + 8]
            if any(before[i] >= 0 and row[i] >= 0 for i in (1, 3, 5, 7)):
                self._log.note("repeated", key)
                self._places[key] = place = end
            else:
                self._log.note("apart", key)
                row = [*map(max, before, row)]  # a part that one of them lacks is (0, -1)
        if place == end:
            rows.extend(row)
        else:
            rows[place : place + 8] = array("q", row)
        self._last = place
        if row[1] < 0 or (row[3] < 0 and row[5] < 0 and row[7] < 0):
            self._incomplete.setdefault(place, (key, []))[1].extend(group.others)

    def drop_last(self) -> None:
        """Leaves out the sample that the last group belongs to."""
        self._rows[self._last : self._last + 8] = array("q", ABSENT)
        self._incomplete.pop(self._last, None)
        self._dropped += 1

    def finish(self) -> Samples:
        """The samples that have an image."""
        names = {3: ".txt", 5: ".json", 7: ".cls"}
        count = len(self._rows) // 8 - self._dropped
        left_out = 0
        for place, (key, others) in self._incomplete.items():
            row = self._rows[place : place + 8]
            parts = [names[i] for i in names if row[i] >= 0]
            if row[1] < 0:
                left_out += 1
                self._log.note(
                    "without_image", key, [*parts, *(f".{_text(name)}" for name in others)]
                )
            elif not parts:
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
    """The samples of a local tar of `size` bytes.

    Raises:
      NoTar: it does not begin like one.
      OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        return samples(lambda at, length: os.pread(descriptor, length, at), size, options)


def is_header(block: bytes) -> bool:
    """Whether a block has the magic of a header, or the checksum that the oldest tars have."""
    if block.startswith(b"ustar", 257):
        return True
    try:
        stated = int(block[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def number(field: bytes) -> int:
    """A number in octal, or in binary as GNU writes sizes of 8 GiB and more; blank: 0.

    Raises:
      ValueError: it is neither.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    value = int(field.partition(NUL)[0].strip() or b"0", 8)
    if value < 0:
        raise ValueError(f"a size of {value}")
    return value


def header_name(block: bytes) -> bytes:
    """The name in a header; ustar splits a long one, and GNU keeps times in the second part."""
    prefix = block[345:500].partition(NUL)[0] if block[257:263] == USTAR else b""
    return (prefix + b"/" if prefix else b"") + block[:100].partition(NUL)[0]


def extended_values(kind: bytes, body: bytes) -> dict[bytes, bytes]:
    """The path and the size, if any, that an extended header states for what follows."""
    if kind == LONG_NAME:
        return {b"path": body.partition(NUL)[0]}
    values: dict[bytes, bytes] = {}
    if kind == LONG_LINK:
        return values
    while body.strip(NUL):
        length = body.partition(b" ")[0]  # of a record such as "18 path=a/b/c.jpg\n"
        key, equals, value = body[len(length) + 1 : int(length)].partition(b"=")
        value = value.removesuffix(b"\n")
        if not equals or not length.isdigit() or (key == b"size" and not value.isdigit()):
            raise ValueError(f"{body[:40]!r} is not a record of a pax header")
        if key in (b"path", b"size"):
            values[key] = value
        if key.startswith(b"GNU.sparse."):
            values[b"sparse"] = b""
            values |= {b"path": value} if key == b"GNU.sparse.name" else {}
        body = body[int(length) :]
    return values


def _serve() -> None:
    """Answers each line of standard input, a path and a size, with a REPLY, rows and notes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and with it the input
    options = Options(*json.loads(sys.argv[1]))
    for line in sys.stdin:
        try:
            rows, count, notes, checksum = samples_of_file(*json.loads(line), options)
            data, note_data = rows.tobytes(), json.dumps(notes).encode()
            reply = REPLY.pack(len(data), count, len(note_data), checksum) + data + note_data
        except Exception:
            reply = REPLY.pack(-1, 0, 0, 0)  # the caller tries it and sees the error
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
