"""Indices of WebDataset tars: the offsets of samples, read from the headers once, kept in files.

The index of a tar is an int64 array that `np.load(file, mmap_mode="r")` maps. Each of its rows is
a sample: offset and size, in bytes, of its image, text, JSON and class; row 0 says what the index
was made from. Notes on what was unusual follow as JSON. Names are not kept, and single rows are
read when they are needed, so that memory does not grow with the data set.

Many tars are indexed by processes that run `tar_headers.py` as a plain command. A pool of
`multiprocessing` would run the user's own script again in each process, which fails where that has
no `if __name__ == "__main__"`, and would import numpy and this package first. The processes end
with this one, as their input does.
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

from coca_jax.data import file_names
from coca_jax.data.file_names import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from coca_jax.data.sources import tar_headers
from coca_jax.data.sources.base import base_name
from coca_jax.data.sources.tar_headers import Notes, Options, Samples
from coca_jax.errors import UserError
from coca_jax.io import files, http
from coca_jax.io.cores import available_cores
from coca_jax.io.messages import cause

SUFFIX = ".coca_index"  # after the name of the tar
FORMAT = 0x636F_6361_0004  # "coca", and a number that grows with every change of the layout
URL_CHUNK = 1 << 20
THREADS = 16  # they wait for the storage
TARS_AT_ONCE = 64  # whose indices one task of a thread looks for
MIN_PROCESSES = 8  # for many tars, even with fewer CPUs: they wait for the storage, too
TARS_PER_PROCESS = 4  # for fewer, starting a process takes longer than it saves

# Of several in a sample the first is read: an image rather than a video.
IMAGE_KEYS = tuple(suffix[1:] for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
TEXT_KEYS = ("txt",)

_ROW = struct.Struct("<8q")
_NPY_HEADER = 128  # bytes before the array
_NPY_MAGIC = b"\x93NUMPY\x01\x00v\x00"  # and the size of the rest of that header


class Index(NamedTuple):
    """The index of one tar."""

    tar: str
    file: str  # of the index; empty: it is in memory only
    count: int  # samples with an image
    notes: Notes  # on what was unusual; see `tar_headers.Notes`
    size: int  # bytes of the tar
    checksum: int  # see `tar_headers.Samples`
    table: Int64[np.ndarray, "n 8"] | None = None  # of an index in memory

    def row(self, sample: int) -> tuple[int, ...]:
        """Offset and size of a sample's image, text, JSON and class; the size of none is -1.

        Raises:
          FileNotFoundError: the index was deleted since.
        """
        if self.table is not None:
            return tuple(self.table[1 + sample].tolist())
        where = _NPY_HEADER + (1 + sample) * _ROW.size
        return _ROW.unpack(files.read_range(self.file, where, _ROW.size))


def make_options(image_keys: Sequence[str] = (), text_keys: Sequence[str] = ()) -> Options:
    """Chooses which members of a sample are its image and its text.

    Args:
      image_keys: extensions, such as "input.jpg"; the first that a sample has is its image. Empty:
        IMAGE_KEYS.
      text_keys: extensions; the first that a sample has is its text. Empty: TEXT_KEYS.
    """
    keys = {"json": (4, 0), "cls": (6, 0)}
    for column, names in ((2, text_keys or TEXT_KEYS), (0, image_keys or IMAGE_KEYS)):
        names = [name.lower().removeprefix(".") for name in names]
        keys |= {name: (column, rank) for rank, name in enumerate(names)}
    return Options(keys, file_names.HIDDEN_PATTERN)


def open_indices(
    tars: Sequence[str], cache_dir: str = "", options: Options | None = None
) -> list[Index]:
    """Reads the index of each tar, or makes it where there is none.

    Args:
      tars: paths or URLs.
      cache_dir: for indices that cannot be written next to their tars; empty:
        ~/.cache/coca_jax/tar_index.
      options: see `make_options`; None: its defaults.

    Raises:
      UserError: a tar is not there, cannot be read or is not a tar.
    """
    files.forget()
    maker = _Maker(cache_dir, options or make_options())
    tasks = [tars[i : i + TARS_AT_ONCE] for i in range(0, len(tars), TARS_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda task: [maker.find(tar) for tar in task], tasks)
        indices = list(itertools.chain.from_iterable(results))
    missing = [tar for tar, index in zip(tars, indices, strict=True) if index is None]
    new_indices = maker.make_all(missing)
    indices = [index or new_indices[tar] for tar, index in zip(tars, indices, strict=True)]
    maker.warn(indices)
    return indices


def scan(tar: str, stamp: files.Stamp, options: Options | None = None) -> Samples:
    """Reads the headers of a tar as far as it is not damaged.

    Raises:
      UserError: it is not a tar.
      OSError: it cannot be read.
    """

    def read(offset: int, size: int) -> bytes:
        size = min(size, stamp.size - offset)
        return files.read_range(tar, offset, size) if size else b""

    options = options or make_options()
    try:
        if files.is_url(tar):
            return tar_headers.samples(read, stamp.size, options, URL_CHUNK, URL_CHUNK)
        return tar_headers.samples_of_file(tar, stamp.size, options)
    except tar_headers.NoTar as error:
        first = error.args[0]
        words = _other_format(first)
        if len(first) < tar_headers.BLOCK and not words:
            return Samples(array("q"), 0, {"cut_off": (1, "within its first header", {})}, 0)
        raise UserError(
            f"{http.shown(tar)} {words or f'is not a tar file: it begins with {first[:16]!r}'}"
        ) from error


# How files begin that are not tars, and what they are.
_OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed (gzip), which forbids random access; unpack it (gunzip)",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd), which forbids random access; unpack it (zstd -d)",
    b"BZh": "is compressed (bzip2), which forbids random access; unpack it (bunzip2)",
    b"\xfd7zXZ": "is compressed (xz), which forbids random access; unpack it (unxz)",
    b"\x04\x22\x4d\x18": "is compressed (lz4), which forbids random access; unpack it (lz4 -d)",
    b"PK\x03\x04": "is a ZIP archive and no tar; unpack it, and pack its files as a tar",
    b"PAR1": "is a Parquet file and no tar; `coca data convert` reads those",
    b"version https://git-lfs": "is a pointer of Git LFS and no tar; `git lfs pull` fetches it",
}


def _other_format(first: bytes) -> str:
    """Words on a file that does not begin like a tar, after its name; empty: unknown format."""
    for magic, words in _OTHER_FORMATS.items():
        if first.startswith(magic):
            return words
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return (
            f"is not a tar file but a web page, perhaps of an error: it begins with {first[:60]!r}"
        )
    return ""


class _Maker:
    """Reads and makes indices, all of them with the same options."""

    def __init__(self, cache_dir: str, options: Options):
        self._cache_dir, self._options = cache_dir, options
        self._taken = _hash(repr(options))
        usual = options == make_options()
        self._suffix = SUFFIX if usual else f".{self._taken & 0xFFFFFFFF:08x}{SUFFIX}"

    def find(self, tar: str) -> Index | None:
        """The index of a tar, if there is a valid one of this version of the tar."""
        try:
            stamp = files.stamp(tar)
        except FileNotFoundError as error:
            raise UserError(f"there is no tar {http.shown(tar)}") from error
        except OSError as error:
            raise UserError(
                f"the tar {http.shown(tar)} cannot be read: {cause(error, tar)}"
            ) from error
        for path in self._paths(tar):
            with contextlib.suppress(OSError, ValueError):
                if index := self._read(tar, stamp, path):
                    return index
        return None

    def _read(self, tar: str, stamp: files.Stamp, path: Path) -> Index | None:
        """Reads an index; None: it is of another tar, version or format.

        Raises:
          OSError: there is none.
          ValueError: it is damaged.
        """
        with open(path, "rb", buffering=0) as file:
            head = file.read(_NPY_HEADER + _ROW.size)
            if not head.startswith(_NPY_MAGIC) or len(head) != _NPY_HEADER + _ROW.size:
                return None
            form, *made_from, count, notes_size, checksum, _ = _ROW.unpack_from(head, _NPY_HEADER)
            end = _NPY_HEADER + (1 + count) * _ROW.size
            whole = os.fstat(file.fileno()).st_size == end + notes_size
            if form != FORMAT or made_from != self._origin(stamp) or not whole:
                return None
            notes = json.loads(os.pread(file.fileno(), notes_size, end)) if notes_size else {}
        return Index(tar, str(path), count, notes, stamp.size, checksum)

    def _origin(self, stamp: files.Stamp) -> list[int]:
        return [stamp.size, _hash(stamp.version), self._taken]

    def make(self, tar: str) -> Index:
        """Makes the index of a tar in this process.

        Raises:
          UserError: it cannot be read, or is not a tar.
        """
        try:
            stamp = files.stamp(tar)
            return self._keep(tar, stamp, scan(tar, stamp, self._options))
        except OSError as error:
            raise UserError(
                f"the tar {http.shown(tar)} cannot be read: {cause(error, tar)}"
            ) from error

    def _keep(self, tar: str, stamp: files.Stamp, samples: Samples) -> Index:
        """Writes an index to the first place that allows it."""
        count, notes = len(samples.rows) // 8, samples.notes
        note_data = json.dumps(notes).encode() if notes else b""
        facts = (count, notes, stamp.size, samples.checksum)
        head = [FORMAT, *self._origin(stamp), count, len(note_data), samples.checksum, 0]
        table = np.array(samples.rows, np.int64).reshape(count, 8)
        table = np.concatenate([np.array([head], np.int64), table])
        file = io.BytesIO()
        np.save(file, table)
        file.write(note_data)
        for path in self._paths(tar):
            with contextlib.suppress(OSError):
                files.write_whole(path, file.getvalue())
                return Index(tar, str(path), *facts)
        return Index(tar, "", *facts, table)

    def make_all(self, tars: Sequence[str]) -> dict[str, Index]:
        """Makes the indices of many tars, in other processes where that is faster."""
        if not tars:
            return {}
        from tqdm import tqdm

        seconds = 0.1 if sys.stderr.isatty() else 30
        with (
            tqdm(total=len(tars), desc="indexing", unit="tar", delay=1, mininterval=seconds) as bar,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            indices = self._make_by_processes([tar for tar in tars if not files.is_url(tar)], bar)
            remaining = [tar for tar in tars if tar not in indices]
            for index in pool.map(self.make, remaining):
                indices[index.tar] = index
                bar.update()
        return indices

    def _make_by_processes(self, tars: Sequence[str], bar: Any) -> dict[str, Index]:
        """Makes the indices of many tars by processes; those that fail are not returned."""
        indices: dict[str, Index] = {}
        todo = list(reversed(tars))
        command = [sys.executable, "-I", "-S", tar_headers.__file__, json.dumps(self._options)]

        def work(_: int) -> None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            with contextlib.suppress(OSError), subprocess.Popen(command, **pipes) as process:
                while todo:
                    try:
                        tar = todo.pop()
                    except IndexError:  # another thread was faster
                        return
                    stamp = files.stamp(tar)
                    if (samples := _ask(process, tar, stamp.size)) is not None:
                        indices[tar] = self._keep(tar, stamp, samples)
                        bar.update()

        count = min(max(available_cores(), MIN_PROCESSES), len(tars) // TARS_PER_PROCESS)
        if count > 1:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(work, range(count)))
        return indices

    def warn(self, indices: Sequence[Index]) -> None:
        """Warns of indices that could not be written, and so are made anew each time."""
        if unwritten := [index.tar for index in indices if index.table is not None]:
            print(
                f"warning: the indices of {len(unwritten):,} tars, such as "
                f"{http.shown(unwritten[0])}, stay in "
                f"memory: {' and '.join(str(p.parent) for p in self._paths(unwritten[0]))} "
                "cannot be written to",
                file=sys.stderr,
            )

    def _paths(self, tar: str) -> Iterator[Path]:
        """Paths that the index of a tar may have: next to the tar, or in the cache folder."""
        if not files.is_url(tar):
            yield Path(tar + self._suffix)
            tar = os.path.abspath(tar)
        folder = files.cache_folder("tar_index", self._cache_dir)
        name = base_name(tar)[-100:]
        yield folder / f"{_hash(tar) & (1 << 64) - 1:016x}-{name}{self._suffix}"


def _ask(process: subprocess.Popen, tar: str, size: int) -> Samples | None:
    """Has a process read the headers of a tar; None: it failed.

    Raises:
      OSError: the process has ended.
    """
    process.stdin.write(json.dumps([tar, size]).encode() + b"\n")
    process.stdin.flush()
    reply = process.stdout.read(tar_headers.REPLY.size)
    if len(reply) < tar_headers.REPLY.size:
        raise BrokenPipeError
    size, count, notes_size, checksum = tar_headers.REPLY.unpack(reply)
    if size < 0:
        return None
    rows, notes = process.stdout.read(size), process.stdout.read(notes_size)
    if len(rows) < size or len(notes) < notes_size:
        raise BrokenPipeError
    return Samples(array("q", rows), count, json.loads(notes or b"{}"), checksum)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
