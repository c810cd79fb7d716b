"""The manifest of a checkpoint: size and SHA-256 of every file beneath a step's folder.

Orbax loads a file with a flipped bit without complaint, and calls a step with a truncated file
its latest. The manifest is written last, so it is also the mark of a save that was finished.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "manifest.json"
_THREADS = 8  # hashlib releases the GIL, so files are read and hashed side by side


def write(folder: Path) -> None:
    """Reads every file beneath `folder` once and writes the manifest, atomically."""
    files = _files(folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(_sha256, files.values())
        entries = {
            name: [file.stat().st_size, digest]
            for (name, file), digest in zip(files.items(), digests, strict=True)
        }
    temporary = folder / f"{NAME}.tmp"
    temporary.write_text(json.dumps(entries, indent=1))
    temporary.replace(folder / NAME)


def problems(folder: Path, contents: bool = True) -> list[str]:
    """Says what differs from the manifest, a line for each file; an empty list if nothing does.

    Args:
      folder: the step's folder.
      contents: whether to read the files and compare checksums, or to compare only their sizes.
    """
    try:
        expected = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return [f"no {NAME}, so its save was interrupted" if folder.exists() else "no such folder"]
    except (OSError, ValueError) as error:
        return [f"{NAME} is unreadable ({error})"]
    files = _files(folder)
    surplus = [f"{name}: surplus, not in {NAME}" for name in files if name not in expected]

    def check(name: str) -> str | None:
        size, digest = expected[name]
        try:
            if (found := files[name].stat().st_size) != size:
                kind = "truncated" if found < size else "too long"
                return f"{name}: {kind}, {found} bytes instead of {size}"
            if contents and _sha256(files[name]) != digest:
                return f"{name}: checksum differs"
        except KeyError:
            return f"{name}: missing"
        except OSError as error:
            return f"{name}: unreadable ({error.strerror})"

    with ThreadPoolExecutor(_THREADS) as pool:
        return [line for line in pool.map(check, expected) if line] + surplus


def _files(folder: Path) -> dict[str, Path]:
    """The files beneath `folder` by their relative path, without the manifest itself."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {
        name: path for name, path in files.items() if path.is_file() and not name.startswith(NAME)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
