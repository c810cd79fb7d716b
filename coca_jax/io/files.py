"""One file layer for all that is not read by a library of its own: local paths and URLs.

A URL is anything with "://" that fsspec knows: `gs://` and `s3://` (extras `gcs` and `s3`),
`https://`, `memory://`. Reading a part asks for no more than that part.
"""

import codecs
import contextlib
import fcntl
import functools
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from coca_jax.errors import UserError

OPEN_FILES = 256  # local ones kept open; more are reopened when they are read


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int  # bytes
    version: str  # its time of change, or a store's tag


def is_url(path: str) -> bool:
    """Whether a path is for fsspec, and not for the local file system."""
    return "://" in path


def expand(pattern: str | Sequence[str]) -> list[str]:
    """The files that a pattern stands for, in the order of its braces and then of their names.

    Args:
      pattern: one or several of: a path or URL, with `{00000..00099}`, `{a,b}`, `*`, `?`, `[0-9]`.

    Raises:
      UserError: a pattern is malformed or matches nothing, or a file is named twice.
    """
    import braceexpand

    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    paths: list[str] = []
    for one in patterns:
        try:
            parts = list(braceexpand.braceexpand(one))
        except braceexpand.UnbalancedBracesError as error:
            raise UserError(f"the braces of {one!r} do not match") from error
        for part in parts:
            paths += _matches(part) if any(c in part for c in "*?[") else [part]
    if not paths or not all(paths):
        raise UserError(f"no path is given ({pattern!r})")
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise UserError(f"{path} is named twice by {pattern!r}")
        seen.add(path)
    return paths


def stamp(path: str) -> Stamp:
    """Size and version of a file.

    Raises:
      FileNotFoundError: it is not there.
    """
    if not is_url(path):
        found = os.stat(path)
        return Stamp(found.st_size, str(found.st_mtime_ns))
    system, name = _system(path)
    found = system.info(name)
    keys = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "created")
    version = next((str(found[key]) for key in keys if found.get(key)), "")
    return Stamp(int(found["size"]), version)


def read_range(path: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on, by one request.

    Raises:
      FileNotFoundError: the file is not there.
      EOFError: it ends before that.
    """
    if is_url(path):
        system, name = _system(path)
        data = system.cat_file(name, start=offset, end=offset + size)
    else:
        data = _local(path).read(offset, size)
    if len(data) != size:
        raise EOFError(f"{path} ends at byte {offset + len(data)}, within {offset}+{size}")
    return data


def open_binary(path: str) -> Any:
    """A file to read from its beginning, with seek."""
    if not is_url(path):
        return open(path, "rb")
    system, name = _system(path)
    return system.open(name, "rb")


def text_encoding(data: bytes) -> str:
    """The encoding of a text by its byte order mark; UTF-8 without one."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # before UTF-16's
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    return next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8-sig")


def split_lines(text: str) -> list[str]:
    """The lines of a text, which end with \\n, \\r\\n or \\r, without these ends.

    Unlike `str.splitlines`, form feeds, U+0085, U+2028 and the like are characters of their line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_lines(path: str, skip_blank: bool = False) -> list[str]:
    """The lines of a text file, such as names of the classes 0, 1, ..., without outer white space.

    UTF-8, or UTF-16 with a byte order mark. Blank lines at the end do not count.

    Args:
      path: of a file.
      skip_blank: leave out the other blank lines, too, where lines have no numbers.

    Raises:
      UserError: the file cannot be read, holds nothing or a NUL, or another line is blank.
    """
    try:
        with open_binary(path) as file:
            data = file.read()
        text = data.decode(text_encoding(data)).replace("\ufeff", "")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    lines = [line.strip() for line in split_lines(text.rstrip())]
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{path}:{number} holds a NUL: it should be text, in UTF-8")
        if not line and not skip_blank:
            raise UserError(f"{path}:{number} is blank: every line should hold a name")
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path} is empty: it should hold a name in every line")
    return lines


def cache_folder(name: str, given: str = "") -> Path:
    """The folder that is given, or that of this name in the user's own cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or f"{home}/coca_jax/{name}").expanduser()


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a local file in one step, so that nobody sees a part of it; makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}")  # hosts of one file system share their ids
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: str | os.PathLike, doing: str, patience: float = 0.0) -> Iterator[None]:
    """Keeps a local folder from other processes, until the context or this process ends.

    On a file system that has no locks nobody is kept away.

    Args:
      folder: it is made; the lock is a file `.lock` in it.
      doing: what is done to it, such as "trained", for the message.
      patience: seconds to wait for another process to let go of it; the wait is told on stderr.

    Raises:
      UserError: another process has it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        if not _has_locked(file):
            busy = f"{folder} is being {doing} by {_content(file)}"
            if patience:
                print(f"{busy}; waiting up to {patience:g} s", file=sys.stderr)
            deadline = time.monotonic() + patience
            while not _has_locked(file):
                if time.monotonic() >= deadline:
                    raise UserError(busy)
                time.sleep(min(1.0, patience))
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def _has_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # there are no locks
        pass
    return True


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


class _Local:
    """An open file, which any number of threads may read; closed when nobody holds it."""

    def __init__(self, path: str):
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self):
        if self._descriptor >= 0:
            os.close(self._descriptor)


_local = functools.lru_cache(maxsize=OPEN_FILES)(_Local)


def forget() -> None:
    """Closes the local files that are kept open, so that what replaced them is read from now on."""
    _local.cache_clear()


def _system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _matches(pattern: str) -> list[str]:
    import glob

    if is_url(pattern):
        system, name = _system(pattern)
        found = [system.unstrip_protocol(match) for match in system.glob(name)]
    else:
        found = glob.glob(pattern, recursive=True)
    if not found:
        raise UserError(f"no file matches {pattern!r}")
    return sorted(found)
