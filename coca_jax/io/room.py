"""Errors of full storage as messages, with the free and the needed space."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator

from coca_jax.errors import UserError

# No room on the device, in a quota, or for a file of that size. Libraries in C++ give the texts.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def explained(folder: str | os.PathLike, needed: Callable[[], int], then: str) -> Iterator[None]:
    """Turns errors of full storage into a UserError.

    Args:
      folder: that is written to.
      needed: counts the bytes that are still to be written, about.
      then: what to do when there is room.

    Raises:
      UserError: there was no room; anything else is raised as it is.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_full(error):
            raise
        free = free_bytes(folder)
        raise UserError(
            f"{folder} is full: {error}; {free / 2**20:,.1f} MiB are free there, and about "
            f"{needed() / 2**20:,.1f} MiB more are needed; make room, {then}"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an exception says that there is no room for what was written."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(number) in str(error) for number in _FULL)


def free_bytes(folder: str | os.PathLike) -> int:
    """Bytes that can be written where a folder is, or would be."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free
