"""The description of a checkpoint: `metadata.json` and `layout.json` of a step, without arrays."""

import hashlib
import os
import re
from typing import Any, NamedTuple

from coca_jax.checkpoints import manifest
from coca_jax.errors import UserError
from coca_jax.io import files, folders
from coca_jax.io.paths import as_path
from coca_jax.io.stored import Damaged, read_json, shown

METADATA, LAYOUT = manifest.REQUIRED
_STEP = re.compile(r"0|[1-9]\d*")
_LEAF = re.compile(r"\[(\d+(, \d+)*)?\] [a-z][a-z0-9_]*")  # "[12, 768] float32"


class Saved(NamedTuple):
    """The metadata of a step."""

    step: int
    metadata: dict[str, Any]


def newest(directory: str | os.PathLike) -> Saved | None:
    """The newest step with valid metadata, whatever its arrays are; None if there is none.

    Args:
      directory: the `checkpoints` of a run.
    """
    for step in steps_in(directory):
        folder = as_path(directory) / str(step)
        if not manifest.problems(folder, only=manifest.REQUIRED) and not problems(folder):
            return Saved(step, read_json(folder / METADATA))
    return None


def steps_in(directory: str | os.PathLike) -> list[int]:
    """The steps that have a folder, valid or not, the newest first.

    Args:
      directory: the `checkpoints` of a run.
    """
    names = [folder.name for folder in folders.children(directory)]
    return sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)


def whole_steps(directory: str | os.PathLike) -> list[int]:
    """The steps that look whole, the newest first; the best checkpoint is one of them.

    Only file sizes are compared: to read the contents after every save would take too long.

    Args:
      directory: the `checkpoints` of a run.
    """
    root = as_path(directory)
    return [step for step in steps_in(root) if not manifest.problems(root / str(step), False)]


def problems(folder: os.PathLike) -> list[str]:
    """Says what in the two files of a step is not as they are written, a line each."""
    errors = []
    for name, check in ((METADATA, lambda content: None), (LAYOUT, _check_layout)):
        try:
            check(read_json(f"{folder}/{name}"))
        except FileNotFoundError:
            errors.append(f"{name}: missing")
        except Damaged as error:
            errors.append(f"{name} {error}")
    return errors


def _check_layout(layout: dict[str, Any]) -> None:
    for item, leaves in layout.items():
        if not isinstance(leaves, dict):
            raise Damaged(f"has {shown(leaves)} for {item}, instead of its leaves")
        for path, leaf in leaves.items():
            if not isinstance(leaf, str) or not _LEAF.fullmatch(leaf):
                raise Damaged(f"has {shown(leaf)} for {item}/{path}, instead of shape and dtype")


def require_files(workdir: str | os.PathLike, saved: Saved) -> None:
    """Makes sure that the files next to the checkpoints are unchanged.

    Checkpoints without such checksums, of earlier versions, pass.

    Raises:
      UserError: one is missing or has been replaced; names it.
    """
    checksums = saved.metadata.get("files")
    for name, checksum in checksums.items() if isinstance(checksums, dict) else ():
        path = f"{os.fspath(workdir)}/{os.path.basename(name)}"
        try:
            content = files.read_bytes(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror or error}): put back the file that step "
                f"{saved.step} was trained with"
            ) from error
        if sha256(content) != checksum:
            raise UserError(
                f"{path} is not the file that step {saved.step} was trained with: its checksum "
                "differs. Put that file back"
            )


def sha256(content: bytes) -> str:
    """The checksum of a file's content, as `metadata.json` keeps it."""
    return hashlib.sha256(content).hexdigest()
