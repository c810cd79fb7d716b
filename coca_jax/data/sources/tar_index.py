"""Where the samples of WebDataset tars lie: found once from the headers, then kept in files.

The index of a tar is an int64 array that `np.load(file, mmap_mode="r")` maps. Each of its rows is
a sample: offset and size, in bytes, of its image, text, JSON and class; row 0 says what the index
was made from. Names are not kept, and single rows are read when they are needed, so memory does
not grow with the set.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from coca_jax.data.sources import tar_headers
from coca_jax.data.sources.tar_headers import Samples
from coca_jax.errors import UserError
from coca_jax.io import files

SUFFIX = ".coca_index"  # after the name of the tar
FORMAT = 0x636F_6361_0003  # "coca", and a number that grows with every change of the layout
URL_CHUNK = 1 << 20
THREADS = 16  # which wait for storage
TARS_AT_ONCE = 64  # whose indices a thread looks for: there may be very many
MIN_PROCESSES = 8  # for many tars, however few processors there are: they wait, too
TARS_PER_PROCESS = 4  # with fewer, one does not pay

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
    size: int  # bytes of the tar
    checksum: int  # see `tar_headers.Samples`
    table: Int64[np.ndarray, "n 8"] | None = None  # of an index in memory

    def row(self, sample: int) -> tuple[int, ...]:
        """Offset and size of each part of a sample; see `tar_headers.COLUMNS`.

        Raises:
          FileNotFoundError: the index is there no more.
        """
        if self.table is not None:
            return tuple(self.table[1 + sample].tolist())
        where = _NPY_HEADER + (1 + sample) * _ROW.size
        return _ROW.unpack(files.read_range(self.file, where, _ROW.size))


def open_indices(tars: Sequence[str], cache_dir: str = "") -> list[Index]:
    """Finds the index of each tar, or makes it.

    Args:
      tars: paths or URLs.
      cache_dir: for indices that cannot be written beside their tars; empty:
        ~/.cache/coca_jax/tar_index.

    Raises:
      UserError: a tar is not there, cannot be read or is no tar.
    """
    files.forget()
    some = [tars[i : i + TARS_AT_ONCE] for i in range(0, len(tars), TARS_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda part: [_find(tar, cache_dir) for tar in part], some)
        indices = list(itertools.chain.from_iterable(found))
    missing = [tar for tar, index in zip(tars, indices, strict=True) if index is None]
    made = _make_all(missing, cache_dir)
    indices = [index or made[tar] for tar, index in zip(tars, indices, strict=True)]
    _warn(indices, cache_dir)
    return indices


def scan(tar: str, stamp: files.Stamp) -> Samples:
    """Reads the headers of a tar as far as it is sound.

    Raises:
      UserError: it is no tar.
      OSError: it cannot be read.
    """

    def read(offset: int, size: int) -> bytes:
        size = min(size, stamp.size - offset)
        return files.read_range(tar, offset, size) if size else b""

    try:
        if files.is_url(tar):
            return tar_headers.samples(read, stamp.size, URL_CHUNK, URL_CHUNK)
        return tar_headers.samples_of_file(tar, stamp.size)
    except tar_headers.NoTar as error:
        raise UserError(f"{tar} {error}") from error


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
        form, *made_from, count, without, torn, checksum, _ = _ROW.unpack_from(head, _NPY_HEADER)
        whole = size == _NPY_HEADER + (1 + count) * _ROW.size
        if form == FORMAT and made_from == [stamp.size, _hash(stamp.version)] and whole:
            return Index(tar, str(place), count, without, bool(torn), stamp.size, checksum)
    return None


def _make(tar: str, cache_dir: str) -> Index:
    try:
        stamp = files.stamp(tar)
        return _keep(tar, stamp, scan(tar, stamp), cache_dir)
    except OSError as error:
        raise UserError(f"the tar {tar} cannot be read: {error}") from error


def _keep(tar: str, stamp: files.Stamp, found: Samples, cache_dir: str) -> Index:
    """Writes an index where that is possible."""
    count = len(found.rows) // 8
    without = found.count - count
    facts = (count, without, found.torn, stamp.size, found.checksum)
    head = [FORMAT, stamp.size, _hash(stamp.version), count, without, found.torn, found.checksum, 0]
    table = np.array(found.rows, np.int64).reshape(count, 8)
    table = np.concatenate([np.array([head], np.int64), table])
    file = io.BytesIO()
    np.save(file, table)
    for place in _places(tar, cache_dir):
        with contextlib.suppress(OSError):
            files.write_whole(place, file.getvalue())
            return Index(tar, str(place), *facts)
    return Index(tar, "", *facts, table)


def _make_all(tars: Sequence[str], cache_dir: str) -> dict[str, Index]:
    if not tars:
        return {}
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 30
    with (
        tqdm(total=len(tars), desc="indexing", unit="tar", delay=1, mininterval=seconds) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        made = _make_elsewhere([tar for tar in tars if not files.is_url(tar)], cache_dir, bar)
        todo = [tar for tar in tars if tar not in made]
        for index in pool.map(lambda tar: _make(tar, cache_dir), todo):
            made[index.tar] = index
            bar.update()
    return made


def _make_elsewhere(tars: Sequence[str], cache_dir: str, bar: Any) -> dict[str, Index]:
    """Makes the indices of many tars by processes, each with an interpreter lock of its own.

    They are plain commands, as `multiprocessing` would run the user's script again. What they do
    not manage, for whatever reason, is not among what is returned.
    """
    made: dict[str, Index] = {}
    todo = list(reversed(tars))
    command = [sys.executable, "-I", "-S", tar_headers.__file__]

    def work(_: int) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with contextlib.suppress(OSError), subprocess.Popen(command, **pipes) as process:
            while todo:
                try:
                    tar = todo.pop()
                except IndexError:  # another thread was faster
                    return
                stamp = files.stamp(tar)
                if (found := _ask(process, tar, stamp.size)) is not None:
                    made[tar] = _keep(tar, stamp, found, cache_dir)
                    bar.update()

    count = min(max(os.cpu_count() or 1, MIN_PROCESSES), len(tars) // TARS_PER_PROCESS)
    if count > 1:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))
    return made


def _ask(process: subprocess.Popen, tar: str, size: int) -> Samples | None:
    """Has a process scan a tar.

    Raises:
      OSError: the process is no more.
    """
    process.stdin.write(json.dumps([tar, size]).encode() + b"\n")
    process.stdin.flush()
    reply = process.stdout.read(tar_headers.REPLY.size)
    if len(reply) < tar_headers.REPLY.size:
        raise BrokenPipeError
    size, *rest = tar_headers.REPLY.unpack(reply)
    if size < 0:
        return None
    rows = process.stdout.read(size)
    if len(rows) < size:
        raise BrokenPipeError
    return Samples(array("q", rows), *rest)


def _warn(indices: Sequence[Index], cache_dir: str) -> None:
    if kept := [index.tar for index in indices if index.table is not None]:
        print(
            f"warning: the indices of {len(kept):,} tars, such as {kept[0]}, are kept in memory: "
            f"{' and '.join(str(place.parent) for place in _places(kept[0], cache_dir))} "
            "cannot be written to",
            file=sys.stderr,
        )


def _places(tar: str, cache_dir: str) -> Iterator[Path]:
    """Where the index of a tar may be: beside it, or in a folder of all that cannot be there."""
    if not files.is_url(tar):
        yield Path(tar + SUFFIX)
        tar = os.path.abspath(tar)
    folder = files.cache_folder("tar_index", cache_dir)
    name = tar.rpartition("/")[2][-100:]
    yield folder / f"{_hash(tar) & (1 << 64) - 1:016x}-{name}{SUFFIX}"


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
