"""Where the samples of WebDataset tars lie: found once from the headers, then kept in files.

The index of a tar is an int64 array that `np.load(file, mmap_mode="r")` maps. Each of its rows is
a sample: offset and size, in bytes, of its image, text, JSON and class; row 0 says what the index
was made from. Names are not kept, and single rows are read when they are needed, so memory does
not grow with the set.
"""

import contextlib
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from coca_jax.data import files
from coca_jax.data.sources import tar_headers
from coca_jax.errors import UserError

SUFFIX = ".coca_index"  # after the name of the tar
FORMAT = 0x636F_6361_0001  # "coca", and a number that grows with every change of the layout
# Of a row: where the offset of a part is; its size follows, and is -1 if there is no such part.
COLUMNS = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 2, "json": 4, "cls": 6}
CHUNK, MAX_CHUNK = 3 << 10, 12 << 10  # bytes: what mostly lies between two images
URL_CHUNK = 1 << 20
THREADS = 16  # which wait for storage
TARS_PER_PROCESS = 16  # with fewer, one does not pay
SHOWN = 10  # torn tars that are named

_COLUMN = {name.encode(): column for name, column in COLUMNS.items()}
_ABSENT = (0, -1) * 4
_ROW = struct.Struct("<8q")
_NPY_HEADER = 128  # bytes before the array
_NPY_MAGIC = b"\x93NUMPY\x01\x00v\x00"  # and the size of the rest of that header


class Index(NamedTuple):
    """Where the samples of one tar are."""

    tar: str
    file: str  # empty: the index is in memory only
    count: int  # samples with an image
    without_image: int  # samples that are left out
    torn: bool  # the tar ends within a member, or is damaged there
    table: Int64[np.ndarray, "n 8"] | None = None  # of an index in memory

    def row(self, sample: int) -> tuple[int, ...]:
        """Offset and size of each part of a sample; see COLUMNS.

        Raises:
          FileNotFoundError: the index is there no more.
        """
        if self.table is not None:
            return tuple(self.table[1 + sample].tolist())
        where = _NPY_HEADER + (1 + sample) * _ROW.size
        return _ROW.unpack(files.read_range(self.file, where, _ROW.size))


def open_indices(tars: Sequence[str], cache_dir: str = "") -> list[Index]:
    """Finds the index of each tar, or makes it; tells on standard error which tars are torn.

    Args:
      tars: paths or URLs.
      cache_dir: for indices that cannot be written beside their tars; empty:
        ~/.cache/coca_jax/tar_index.

    Raises:
      UserError: a tar is not there, cannot be read or is no tar.
    """
    files.forget()
    with ThreadPoolExecutor(THREADS) as pool:
        indices = list(pool.map(lambda tar: _find(tar, cache_dir), tars))
    missing = [tar for tar, index in zip(tars, indices, strict=True) if index is None]
    made = {index.tar: index for index in _make_all(missing, cache_dir)}
    indices = [index or made[tar] for tar, index in zip(tars, indices, strict=True)]
    _warn(indices, cache_dir)
    return indices


def scan(tar: str, stamp: files.Stamp) -> Int64[np.ndarray, "n 8"]:
    """Reads the headers of a tar as far as it is sound.

    Args:
      tar: path or URL.
      stamp: of the tar.

    Returns:
      The index: row 0 is its format, the tar's size and version, the numbers of samples with
      and without an image, and whether the tar is torn; the others are samples.

    Raises:
      UserError: it is no tar.
    """
    if not files.is_url(tar):
        with open(tar, "rb", buffering=0) as file:
            descriptor = file.fileno()
            return _scan(tar, stamp, lambda at, size: os.pread(descriptor, size, at))

    def read(offset: int, size: int) -> bytes:
        size = min(size, stamp.size - offset)
        return files.read_range(tar, offset, size) if size else b""

    return _scan(tar, stamp, read, URL_CHUNK, URL_CHUNK)


def _scan(
    tar: str,
    stamp: files.Stamp,
    read: Callable[[int, int], bytes],
    chunk: int = CHUNK,
    max_chunk: int = MAX_CHUNK,
) -> Int64[np.ndarray, "n 8"]:
    """Groups members as WebDataset does: those in a row with one name up to its first dot."""
    _check(tar, read(0, tar_headers.BLOCK))
    rows, samples, torn = array("q", bytes(_ROW.size)), 0, False
    row, start = list(_ABSENT), b"\0"  # of the current sample; no name starts like this
    cut = offset = length = 0
    try:
        for name, offset, length in tar_headers.members(read, stamp.size, chunk, max_chunk):
            if not name.startswith(start):
                folder = name.rfind(b"/") + 1
                dot = name.find(b".", folder)
                if dot <= folder:
                    continue  # a hidden file or one without extension: WebDataset skips it
                if row[1] >= 0:
                    rows.extend(row)
                cut = dot + 1
                row, start, samples = list(_ABSENT), name[:cut], samples + 1
            extension = name[cut:]
            column = _COLUMN.get(extension)
            if column is None:
                column = _COLUMN.get(extension.lower())
            if column is not None:
                row[column], row[column + 1] = offset, length
    except (ValueError, EOFError):
        torn = True
    if offset + length > stamp.size:
        torn = True
        if name.startswith(start):  # the last sample lacks a part
            row, samples = list(_ABSENT), samples - 1
    if row[1] >= 0:
        rows.extend(row)
    table = np.frombuffer(rows, np.int64).reshape(-1, 8)
    count = len(table) - 1
    table[0, :6] = FORMAT, stamp.size, _hash(stamp.version), count, samples - count, torn
    return table


def _check(tar: str, block: bytes) -> None:
    if block.startswith(b"\x1f\x8b"):
        raise UserError(f"{tar} is compressed, which forbids random access; unpack it (gunzip)")
    if len(block) == tar_headers.BLOCK and any(block) and not tar_headers.is_header(block):
        raise UserError(f"{tar} is no tar file: it begins with {block[:16]!r}")


def _find(tar: str, cache_dir: str) -> Index | None:
    """The index of a tar, if it is there, sound and newer than the tar."""
    try:
        stamp = files.stamp(tar)
    except FileNotFoundError as error:
        raise UserError(f"there is no tar {tar}") from error
    except OSError as error:
        raise UserError(f"the tar {tar} cannot be read: {error}") from error
    for place in _places(tar, cache_dir):
        try:
            with open(place, "rb", buffering=0) as file:
                head = file.read(_NPY_HEADER + _ROW.size)
                size = os.fstat(file.fileno()).st_size
        except OSError:
            continue
        if not head.startswith(_NPY_MAGIC) or len(head) != _NPY_HEADER + _ROW.size:
            continue
        form, *made_from, count, without, torn, _, _ = _ROW.unpack_from(head, _NPY_HEADER)
        whole = size == _NPY_HEADER + (1 + count) * _ROW.size
        if form == FORMAT and made_from == [stamp.size, _hash(stamp.version)] and whole:
            return Index(tar, str(place), count, without, bool(torn))
    return None


def _make(tar: str, cache_dir: str) -> Index:
    """Indexes a tar and writes the index where that is possible."""
    try:
        table = scan(tar, files.stamp(tar))
    except OSError as error:
        raise UserError(f"the tar {tar} cannot be read: {error}") from error
    count, without, torn = table[0, 3:6].tolist()
    file = io.BytesIO()
    np.save(file, table)
    for place in _places(tar, cache_dir):
        with contextlib.suppress(OSError):
            files.write_whole(place, file.getvalue())
            return Index(tar, str(place), count, without, bool(torn))
    return Index(tar, "", count, without, bool(torn), table)


def _make_all(tars: Sequence[str], cache_dir: str) -> list[Index]:
    if not tars:
        return []
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 30
    with (
        tqdm(total=len(tars), desc="indexing", unit="tar", delay=1, mininterval=seconds) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        done = [_make(tars[0], cache_dir)]
        bar.update()
        todo = tars[1:]
        if done[0].file:
            _make_in_processes([tar for tar in todo if not files.is_url(tar)], cache_dir, bar)
            found = list(pool.map(lambda tar: _find(tar, cache_dir), todo))
            done += [index for index in found if index is not None]
            todo = [tar for tar, index in zip(todo, found, strict=True) if index is None]
        for index in pool.map(lambda tar: _make(tar, cache_dir), todo):
            done.append(index)
            bar.update()
    return done


def _make_in_processes(tars: Sequence[str], cache_dir: str, bar: Any) -> None:
    """Has other processes, each with an interpreter lock of its own, make the indices of many tars.

    They are plain commands: `multiprocessing` would run the user's script again. What they do not
    manage, for whatever reason, stays undone.
    """
    count = min(os.cpu_count() or 1, len(tars) // TARS_PER_PROCESS)
    todo = list(reversed(tars))
    command = [sys.executable, "-m", __name__, cache_dir]

    def work(_: int) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with (
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(command, text=True, **pipes) as process,
        ):
            while todo:
                with contextlib.suppress(IndexError):  # another thread was faster
                    print(json.dumps(todo.pop()), file=process.stdin, flush=True)
                    if not process.stdout.readline():
                        return
                    bar.update()

    if count > 1:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))


def _serve() -> None:
    """Makes the index of each tar named on standard input, and answers with a line."""
    for line in sys.stdin:
        with contextlib.suppress(UserError, OSError):  # who asked finds out why it is not there
            _make(json.loads(line), sys.argv[1])
        print(flush=True)


def _warn(indices: Sequence[Index], cache_dir: str) -> None:
    torn = [index for index in indices if index.torn]
    lines = [f"{one.tar} is torn; the {one.count:,} samples before are used" for one in torn]
    if len(torn) > SHOWN:
        lines[SHOWN:] = [f"{len(torn) - SHOWN:,} more tars are torn"]
    if kept := [index.tar for index in indices if index.table is not None]:
        lines.append(
            f"the indices of {len(kept):,} tars, such as {kept[0]}, are kept in memory: "
            f"{' and '.join(str(place.parent) for place in _places(kept[0], cache_dir))} "
            "cannot be written to"
        )
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _places(tar: str, cache_dir: str) -> list[Path]:
    """Where the index of a tar may be: beside it, or in a folder of all that cannot be there."""
    beside = [] if files.is_url(tar) else [Path(tar + SUFFIX)]
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(cache_dir or f"{home}/coca_jax/tar_index").expanduser()
    full = tar if files.is_url(tar) else os.path.abspath(tar)
    name = f"{_hash(full) & (1 << 64) - 1:016x}-{tar.rsplit('/', 1)[-1][-100:]}{SUFFIX}"
    return [*beside, folder / name]


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


if __name__ == "__main__":
    _serve()
