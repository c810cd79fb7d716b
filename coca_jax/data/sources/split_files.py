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

    The split's files are in a folder of its name, or have it in their names as a word, as in
    `test-00000.tar` and `mine-test-0.tar`. Where neither folders nor files are named by splits, all
    files are read.

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
    named = [os.path.join(folder, split) for folder in (path, os.path.join(path, HUB_FOLDER))]
    for folder in (*named * bool(split), path, os.path.join(path, HUB_FOLDER)):
        names = _matching(folder, pattern) if os.path.isdir(folder) else []
        if names:
            break
    else:
        raise _no_files(path, pattern, split)
    notes: list[Note] = []
    if split and folder not in named:
        names, notes = _of_split(folder, names, split)
    return [os.path.join(folder, name) for name in names], notes


def _matching(folder: str, pattern: str) -> list[str]:
    names = [name for name in os.listdir(folder) if not is_hidden(name)]
    return sorted(name for name in names if fnmatch.fnmatchcase(name.lower(), pattern))


def _of_split(folder: str, names: list[str], split: str) -> tuple[list[str], list[Note]]:
    """The files that have a split in their names, or all if no name has that of a split."""
    chosen = [name for name in names if _has_word(name, split)]
    others = sorted(s for s in SPLITS if any(_has_word(n, s) for n in names if n not in chosen))
    if not chosen and others:
        raise UserError(
            f"{folder} has files of {', '.join(others)}, by their names, and none of "
            f"split={split!r}; set `split` to what there is, or give the files as the path"
        )
    if not chosen or len(chosen) == len(names):
        return names, []
    unread = counted(len(names) - len(chosen), "others are not")
    text = f"{folder}: the files with {split!r} in their names are read, and {unread}"
    return chosen, [Note("split", len(names) - len(chosen), text)]


def _has_word(name: str, split: str) -> bool:
    """Whether a split is a word of a file's name, maybe with a number: a-test-0.tar, test0.tar."""
    return re.search(rf"(^|[-_.]){re.escape(split)}\d*([-_.]|$)", name, re.IGNORECASE) is not None


def _no_files(folder: str, pattern: str, split: str) -> UserError:
    listed = sorted(name for name in os.listdir(folder) if not is_hidden(name))
    wanted = f"no {pattern.strip('*')} files" + f", and no folder {split!r} of them" * bool(split)
    content = f"it holds {', '.join(listed[:5])}" + ", ..." * (len(listed) > 5)
    content = content if listed else "it is empty"
    return UserError(f"{folder} holds {wanted}; {content}{what_reads(listed)}")
