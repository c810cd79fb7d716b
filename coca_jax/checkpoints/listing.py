"""The steps in the `checkpoints` of a run: how large they are, and what is wrong with them."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from coca_jax.checkpoints import manifest, metadata
from coca_jax.io import folders
from coca_jax.io.paths import as_path


class Listed(NamedTuple):
    """A step that has a folder."""

    step: int
    size: int  # bytes
    state: str  # valid, damaged, or unfinished: it is being saved or removed, or that was stopped
    problems: Sequence[str]  # lines; none for valid steps


def list_steps(directory: str | os.PathLike, *, contents: bool = True) -> list[Listed]:
    """The steps of a run in their order, valid or not.

    Args:
      directory: the `checkpoints` of a run.
      contents: whether to compare checksums, for which local files are read, or only sizes.
    """
    return [_listed(directory, step, contents) for step in reversed(metadata.steps_in(directory))]


def _listed(directory: str | os.PathLike, step: int, contents: bool) -> Listed:
    folder = as_path(directory) / str(step)
    files = folders.tree(folder)
    size = sum(info.size for info in files.values())
    problems = []
    if manifest.NAME in files:
        problems = manifest.problems(folder, contents) or metadata.problems(folder)
    if manifest.NAME not in files or (problems and not (folder / manifest.NAME).exists()):
        problem = f"no {manifest.NAME}: its save was interrupted, or it is being saved or removed"
        return Listed(step, size, "unfinished", [problem])
    return Listed(step, size, "damaged" if problems else "valid", problems)
