"""One file layer for all that is not read by a library of its own: local paths and URLs.

A URL is anything with "://" that fsspec knows: `gs://` and `s3://` (extras `gcs` and `s3`),
`https://`, `memory://`. Reading a part asks for no more than that part.
"""

import codecs
import contextlib
import errno
import functools
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coca_jax.errors import UserError
from coca_jax.io import http
from coca_jax.io.messages import cause, shortened
from coca_jax.io.paths import expand, is_url, normalize, system_of

__all__ = [
    "Stamp",
    "atomic",
    "cache_folder",
    "expand",
    "forget",
    "is_file",
    "is_url",
    "open_binary",
    "read_bytes",
    "read_lines",
    "read_range",
    "remove_temporaries",
    "require_writable",
    "split_lines",
    "stamp",
    "text_encoding",
    "write_whole",
]

FOLDER_AGE = 3600.0  # seconds; a large model is exported, or copied, for minutes
LONGEST = 50  # characters of a file's name in that of its temporary one
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
OPEN_FILES = 256  # local ones kept open; more are reopened when they are read


class Stamp(NamedTuple):
    """Properties of a file that change with its content."""

    size: int  # bytes
    version: str  # its time of change, or a store's tag


def stamp(path: str) -> Stamp:
    """Returns the size and version of a file.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not is_url(path):
        found = os.stat(path)
        return Stamp(found.st_size, str(found.st_mtime_ns))
    if http.is_http(path):
        return Stamp(*http.stamp(path))
    system, name = system_of(path)
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
    if http.is_http(path):
        data = http.read_range(path, offset, size)
    elif is_url(path):
        system, name = system_of(path)
        data = system.cat_file(name, start=offset, end=offset + size)
    else:
        data = _local(path).read(offset, size)
    if len(data) != size:
        raise EOFError(
            f"{http.shown(path)} ends at byte {offset + len(data)}, within {offset}+{size}"
        )
    return data


def open_binary(path: str | os.PathLike) -> Any:
    """A file to read from its beginning, with seek."""
    path = normalize(path)
    if not is_url(path):
        return open(path, "rb")
    if http.is_http(path):
        return http.open_binary(path)
    system, name = system_of(path)
    return system.open(name, "rb")


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file."""
    path = normalize(path)
    if http.is_http(path):
        return http.read_bytes(path)
    with open_binary(path) as file:
        return file.read()


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a file at a path or URL."""
    path = normalize(path)
    if not is_url(path):
        return os.path.isfile(path)
    if http.is_http(path):
        return http.is_file(path)
    system, name = system_of(path)
    return system.isfile(name)


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
    shown = shortened(http.shown(path))
    try:
        data = read_bytes(path)
        text = data.decode(text_encoding(data)).replace("\ufeff", "")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{shown} cannot be read: {cause(error, path)}") from error
    lines = [line.strip() for line in split_lines(text.rstrip())]
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{shown}:{number} holds a NUL: it should be text, in UTF-8")
        if not line and not skip_blank:
            raise UserError(f"{shown}:{number} is blank: every line should hold a name")
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{shown} is empty: it should hold a name in every line")
    return lines


def cache_folder(name: str, given: str = "") -> Path:
    """The folder that is given, or that of this name in the user's own cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = normalize(given or f"{home}/coca_jax/{name}")
    if is_url(path):
        raise UserError(f"{path}: a cache must be a local folder")
    return Path(path)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file in one step, so that nobody sees a part of it; makes its folder.

    Raises:
      OSError: it cannot be written; names it, and leaves nothing.
    """
    path = normalize(path)
    if is_url(path):
        system, name = system_of(path)
        system.pipe_file(name, content)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def require_writable(path: str | os.PathLike) -> None:
    """Refuses a path that no file can be written to, before its content is computed.

    Raises:
      UserError: it is a local folder, or its own folder cannot be made or written to.
    """
    path = normalize(path)
    if is_url(path) or _is_stream(path):
        return
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; it should be a file to write")
    folder = os.path.dirname(os.path.realpath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {folder} does not permit it")


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path to write to, which becomes `path` when the context ends well.

    Nobody sees a part of what is written: after an exception, or where this process is killed,
    `path` is as it was before (`remove_temporaries` removes what a killed process left).

    Args:
      path: of a local file or folder; a link stays, and what it names is replaced. To a file at a
        URL, a pipe or a device it is copied at the end.

    Raises:
      FileExistsError: `path` is a folder that holds something; what was written is removed.
      OSError: it cannot be written; names `path`, and leaves nothing.
    """
    path = normalize(path)
    if is_url(path) or _is_stream(path):
        with tempfile.TemporaryDirectory(prefix="coca_jax-") as folder:
            temporary = Path(folder) / path.rpartition("/")[2]
            yield temporary
            _copy(temporary, path)
        return
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    # Hosts of one file system may have equal process ids. Libraries' errors show the name.
    temporary = path.with_name(f".{path.name[-LONGEST:]}.{uuid.uuid4().hex}")
    try:
        yield temporary
        _rename(temporary, path)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and _is_of(error, temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _is_stream(path: str) -> bool:
    """Whether a local path is of a pipe or a device, which is written to and cannot be replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _copy(file: Path, path: str) -> None:
    """Copies a local file to a URL, a pipe or a device."""
    if is_url(path):
        system, name = system_of(path)
        system.put_file(str(file), name)
        return
    try:
        with open(file, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # `OSError` makes a FileExistsError of EEXIST only
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_of(error: OSError, temporary: Path) -> bool:
    """Whether an error names the temporary file, or no file at all."""
    return bool(error.errno) and error.filename in (None, temporary, str(temporary))


def remove_temporaries(
    folder: str | os.PathLike, min_age: float = 5.0, name: str | None = None
) -> None:
    """Removes what `atomic` left in a local folder where its process was killed.

    Args:
      folder: the local folder; at a URL nothing is left.
      min_age: files that changed in the last so many seconds stay, since another process may be
        writing them.
      name: only files that were to have this name, and folders, too, in which nothing has changed
        for an hour; None: all files, and no folder.
    """
    try:
        entries = [] if is_url(os.fspath(folder)) else [*os.scandir(folder)]
    except OSError:  # there is no such folder, or it cannot be listed
        return
    for entry in entries:
        begin = entry.name[1:-33]
        if _TEMPORARY.fullmatch(entry.name) and (name is None or name[-LONGEST:] == begin):
            with contextlib.suppress(OSError):  # its writer may have just renamed it
                is_folder = entry.is_dir(follow_symlinks=False)
                age = time.time() - _last_change(entry.path)
                if age >= (FOLDER_AGE if is_folder else min_age) and (name or not is_folder):
                    _remove(Path(entry.path))


def _last_change(path: str) -> float:
    """When a file last changed, or a folder and the files below it."""
    below = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return max([os.stat(path).st_mtime, *(os.lstat(file).st_mtime for file in below)])


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
