"""The manifest of a checkpoint: size and checksum of every file beneath a step's folder.

Orbax loads a file with a flipped bit without complaint, and calls a step with a truncated file
its latest. The manifest is written last, so it is also the mark of a save that was finished.

Checksums of local files are SHA-256 of their contents. An object store computes its own (MD5 or
CRC32C), which its listing has: there no file is read to make or to check a manifest.
"""

import hashlib
import json
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from coca_jax.io import files, folders
from coca_jax.io.folders import FileInfo
from coca_jax.io.stored import Damaged, is_step, read_json, shown

NAME = "manifest.json"
REQUIRED = ("metadata.json", "layout.json")  # which every step has
_THREADS = 8  # hashlib releases the GIL, so files are read and hashed side by side


def write(folder: os.PathLike) -> None:
    """Writes the manifest, atomically; local files are read once for it."""
    infos = _files(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(
            lambda name: infos[name].checksum or _digest(f"{folder}/{name}", "sha256"), infos
        )
        entries = {
            name: [info.size, digest]
            for (name, info), digest in zip(infos.items(), digests, strict=True)
        }
    files.write_whole(f"{folder}/{NAME}", json.dumps(entries, indent=1).encode())


def problems(
    folder: os.PathLike, contents: bool = True, only: Collection[str] | None = None
) -> list[str]:
    """Says what differs from the manifest, a line for each file; an empty list if nothing does.

    Files that the manifest does not name make no difference; see `strays`.

    Args:
      folder: the step's folder.
      contents: whether to compare checksums, for which local files are read, or only sizes.
      only: names of the files to look at; None: all that the manifest names.
    """
    try:
        expected = _read(folder)
    except FileNotFoundError:
        there = folders.children(folder)
        return [f"no {NAME}, so its save was interrupted" if there else "no such folder"]
    except Damaged as error:
        return [f"{NAME} {error}"]
    infos = _files(folder)
    names = [name for name in expected if only is None or name in only]

    def check(name: str) -> str | None:
        return _difference(f"{folder}/{name}", infos.get(name), *expected[name], contents)

    with ThreadPoolExecutor(_THREADS) as pool:
        lines = zip(names, pool.map(check, names), strict=True)
        return [f"{name}: {line}" for name, line in lines if line]


def strays(folder: os.PathLike) -> list[str]:
    """Files that a valid step's manifest does not name, such as `.DS_Store`; they are ignored."""
    expected = _read(folder)
    return [name for name in folders.tree(folder) if name not in expected and name != NAME]


def _read(folder: os.PathLike) -> dict[str, tuple[int, str]]:
    """Size and checksum of each file that the manifest names.

    Raises:
      FileNotFoundError: there is no manifest.
      Damaged: it is none.
    """
    entries = read_json(f"{folder}/{NAME}")
    for name, entry in entries.items():
        parts = name.split("/")
        if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise Damaged(f"names {name!r}, which is not a file beneath it")
        shape = isinstance(entry, list) and len(entry) == 2
        if not shape or not is_step(entry[0]) or not isinstance(entry[1], str):
            raise Damaged(f"says {shown(entry)} of {name}, instead of its bytes and checksum")
    if lacking := [name for name in REQUIRED if name not in entries]:
        raise Damaged(f"does not name {' and '.join(lacking)}")
    return {name: (size, checksum) for name, (size, checksum) in entries.items()}


def _difference(
    path: str, info: FileInfo | None, size: int, checksum: str, contents: bool
) -> str | None:
    if info is None:
        return "missing"
    if info.size != size:
        kind = "truncated" if info.size < size else "too long"
        return f"{kind}, {info.size} bytes instead of {size}"
    kind = checksum.partition(":")[0] if ":" in checksum else "sha256"
    unknown = kind == "etag" and not info.checksum.startswith("etag:")  # only its store knows it
    if not contents or unknown or info.checksum == checksum:
        return None
    try:
        # A checkpoint that was copied to or from a store has checksums of the other side.
        if info.checksum.startswith(f"{kind}:") or _digest(path, kind) != checksum:
            return "checksum differs"
    except (OSError, ImportError) as error:
        return f"unreadable ({getattr(error, 'strerror', None) or error})"
    return None


def _files(folder: os.PathLike) -> dict[str, FileInfo]:
    """The files beneath `folder` by their relative path, without the manifest itself."""
    infos = folders.tree(folder)
    return {name: info for name, info in infos.items() if not name.startswith(NAME)}


def _digest(path: str, kind: str) -> str:
    """A file's checksum as the manifest has it; empty if it cannot be computed."""
    with files.open_binary(path) as file:
        if kind == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        if kind == "md5":
            return f"md5:{hashlib.file_digest(file, 'md5').hexdigest()}"
        if kind == "crc32c":
            import google_crc32c  # comes with gcsfs

            checksum = google_crc32c.Checksum()
            for _ in checksum.consume(file, 1 << 20):
                pass
            return f"crc32c:{checksum.digest().hex()}"
    return ""
