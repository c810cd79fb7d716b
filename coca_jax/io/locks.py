"""Keeps a folder from other processes while it is written.

A local folder is locked by `flock`. A folder at `gs://` or `s3://` has a lease, an object `.lock`
that names its holder: see `coca_jax/io/leases.py` for its guarantees.

Why not the package `filelock`: it does not name the holder of a lock, and has no leases for object
stores.
"""

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from coca_jax.errors import UserError
from coca_jax.io.leases import leased
from coca_jax.io.paths import is_url, normalize


@contextlib.contextmanager
def locked(
    folder: str | os.PathLike, doing: str, patience: float = 0.0
) -> Iterator[Callable[[], None]]:
    """Keeps a folder from other processes, until the context or this process ends.

    On a file system that has no locks nobody is kept away.

    Args:
      folder: it is made; the lock is a file `.lock` in it.
      doing: what is done to it, such as "trained", for the message.
      patience: seconds to wait for another process to let go of it; the wait is reported on stderr.

    Yields:
      What raises a UserError if the folder is no longer this process's, which can happen at a URL.

    Raises:
      UserError: another process has it.
    """
    path = normalize(folder)
    if is_url(path):
        with leased(path, doing, patience) as check:
            yield check
        return
    folder = Path(path)
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
        yield lambda: None


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
