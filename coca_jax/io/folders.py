"""Folders, local or in object stores: what is in them, with sizes and checksums."""

import base64
import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coca_jax.io.files import atomic, remove_temporaries
from coca_jax.io.paths import as_path, is_url, join, normalize, system_of

if TYPE_CHECKING:
    from etils import epath

_THREADS = 8
UNFINISHED = "unfinished"  # in the name of a folder that is in a new one until all is written
_MD5 = re.compile(r"[0-9a-f]{32}")


class FileInfo(NamedTuple):
    """A file, as its folder's listing describes it."""

    size: int  # bytes
    checksum: str  # the store's own, such as "md5:0f3a..."; empty: it has none


def children(folder: str | os.PathLike) -> list["epath.Path"]:
    """Returns the entries of a folder, sorted by name; none if the folder does not exist."""
    try:
        return sorted(as_path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def tree(folder: str | os.PathLike) -> dict[str, FileInfo]:
    """Returns all files below a folder by their relative path; for a store, with one listing."""
    root = os.fspath(as_path(folder))
    if is_url(root):
        system, name = system_of(root)
        entries = system.find(name, detail=True)
        files = {path[len(name) :].strip("/"): info for path, info in entries.items()}
        return {
            path: FileInfo(int(info["size"]), _checksum(info))
            for path, info in sorted(files.items())
            if path and info["type"] == "file"
        }
    paths = sorted(os.path.join(at, name) for at, _, names in os.walk(root) for name in names)
    infos = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                infos[os.path.relpath(path, root)] = FileInfo(status.st_size, "")
    return infos


def _checksum(info: dict) -> str:
    """The checksum that the store has for an object, or its ETag; empty if it has neither."""
    if digest := info.get("md5Hash"):
        return f"md5:{base64.b64decode(digest).hex()}"
    if digest := info.get("crc32c"):
        return f"crc32c:{base64.b64decode(digest).hex()}"
    etag = str(info.get("ETag", "")).strip('"')
    return f"{'md5' if _MD5.fullmatch(etag) else 'etag'}:{etag}" if etag else ""


def remove_tree(folder: str | os.PathLike) -> None:
    """Removes a folder and all that is in it, or a link to one, as far as that is possible."""
    path = os.fspath(as_path(folder))
    if os.path.islink(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
        return
    if not is_url(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    system, name = system_of(path)
    with contextlib.suppress(FileNotFoundError):
        system.rm(name, recursive=True)


def is_new(folder: str | os.PathLike) -> bool:
    """Whether a folder, local or at a URL, does not exist or is empty.

    What a killed `new_folder` left does not count, and is removed when it is an hour old.
    """
    path = normalize(folder)
    if is_url(path):
        return not children(path)
    parent, name = os.path.split(os.path.abspath(path))
    remove_temporaries(parent, name=name)
    remove_temporaries(path, name=UNFINISHED)
    return all(child.name.startswith(f".{UNFINISHED}.") for child in children(path))


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike, last: str) -> Iterator[Path]:
    """Gives a folder to write to, whose content is that of a local folder if the context ends well.

    Args:
      folder: new or empty. One that exists is not replaced: it may be a mount point, or the one
        that a shell is in. What was written is moved into it. What is left if this process is
        killed is removed by `is_new`.
      last: the name that is moved last, so that a folder with it is whole.

    Raises:
      OSError: it cannot be written.
    """
    path = Path(normalize(folder))
    if not path.is_dir():
        with atomic(path) as temporary:
            temporary.mkdir(parents=True)
            yield temporary
        return
    temporary = path / f".{UNFINISHED}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        for written in sorted(temporary.iterdir(), key=lambda written: written.name == last):
            written.rename(path / written.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_tree(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies all files beneath a folder to another one; one of the two is at a URL."""
    with ThreadPoolExecutor(_THREADS) as pool:
        names = tree(source)
        list(pool.map(lambda name: _copy(join(source, name), join(target, name)), names))


def _copy(source: str, target: str) -> None:
    if is_url(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        system, name = system_of(source)
        system.get_file(name, target)
    else:
        system, name = system_of(target)
        system.put_file(source, name)
