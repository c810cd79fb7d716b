"""The files that a path stands for; of a local folder those of one split."""

import fnmatch
import os
import re
from collections.abc import Sequence

from coca_jax.data.file_names import is_hidden
from coca_jax.data.sources.base import Note, what_reads
from coca_jax.data.sources.class_folders import SPLITS
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.messages import counted

HUB_FOLDER = "data"  # where data sets of the Hugging Face hub have their files


def files_of_split(
    path: str | Sequence[str], split: str, pattern: str
) -> tuple[list[str], list[Note]]:
    """Lists the files of a split in a local folder; files and patterns are taken as they are.

    The split's files are in a folder of its name, or begin with it, as in `test-00000.tar`. Where
    neither folders nor files are named by splits, all files are read.

    Args:
      path: a local folder, or files as of `files.expand`.
      split: the split; empty: all files of the folder.
      pattern: of the names of files in a folder, in lower case, such as `*.tar`.

    Returns:
      The files, and notes on those that are not read.

    Raises:
      UserError: there are none, or only those of other splits.
    """
    if not isinstance(path, str) or not os.path.isdir(path):
        return files.expand(path), []
    folder = os.path.join(path, split)
    folder = folder if split and os.path.isdir(folder) else path
    listed = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    names = [name for name in listed if fnmatch.fnmatchcase(name.lower(), pattern)]
    if not names:
        if folder == path and os.path.isdir(hub := os.path.join(path, HUB_FOLDER)):
            return files_of_split(hub, split, pattern)
        raise _no_files(folder, listed, pattern, "" if folder != path else split)
    notes: list[Note] = []
    if split and folder == path:
        names, notes = _of_split(folder, names, split)
    return [os.path.join(folder, name) for name in names], notes


def _of_split(folder: str, names: list[str], split: str) -> tuple[list[str], list[Note]]:
    """The files whose names begin with a split, or all if no name begins with that of a split."""
    chosen = [name for name in names if _begins_with(name, split)]
    others = sorted(s for s in SPLITS if any(_begins_with(n, s) for n in names if n not in chosen))
    if not chosen and others:
        raise UserError(
            f"{folder} holds files of the splits {', '.join(others)}, and split={split!r} is none "
            "of them; set `split` to one, or give the files as the path"
        )
    if not chosen or len(chosen) == len(names):
        return names, []
    unread = counted(len(names) - len(chosen), "files are not read")
    text = f"{folder}: the files {split}* are read, as split={split!r}; {unread}"
    return chosen, [Note("split", len(names) - len(chosen), text)]


def _begins_with(name: str, split: str) -> bool:
    return re.match(rf"{re.escape(split)}[-_.]", name, re.IGNORECASE) is not None


def _no_files(folder: str, listed: Sequence[str], pattern: str, split: str) -> UserError:
    wanted = f"no {pattern.strip('*')} files" + f", and no folder {split!r} of them" * bool(split)
    content = f"it holds {', '.join(listed[:5])}" + ", ..." * (len(listed) > 5)
    content = content if listed else "it is empty"
    return UserError(f"{folder} holds {wanted}; {content}{what_reads(listed)}")
