"""Folders in which Orbax writes and reads the steps of a directory whose name it cannot handle.

Orbax takes some characters of paths for patterns, other separators or parts of a URL, and it
cannot write to s3://.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import tempfile
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from coca_jax.checkpoints.processes import by_first
from coca_jax.errors import UserError
from coca_jax.io import files, folders
from coca_jax.io.locks import locked
from coca_jax.io.paths import as_path, is_url

_NOT_IN_URLS = re.compile(r"[#?*\[\]\\]")
_NOT_IN_FOLDERS = re.compile(r"[\[\\\ud800-\udfff]|:/")


class OrbaxFolder:
    """The steps of a directory by paths that Orbax can use.

    They are in the directory itself; or behind a symbolic link, where a local path has characters
    that Orbax does not take literally; or for s3:// in a folder of the user's cache, through which
    a step at a time is copied. With several processes every process calls every method.
    """

    def __init__(self, directory: epath.Path):
        """Does nothing yet but look at the path.

        Raises:
          UserError: a URL has characters that Orbax does not take literally.
        """
        if is_url(str(directory)) and (match := _NOT_IN_URLS.search(str(directory))):
            raise UserError(f"{directory}: {match[0]!r} cannot be in the URL of checkpoints")
        self._directory = directory
        self._is_copied = str(directory).startswith("s3://")
        self._resources = contextlib.ExitStack()

    def to_write(self, step: int) -> epath.Path:
        """The path at which Orbax saves a step.

        Raises:
          UserError: processes of several hosts would save at s3://.
        """
        if self._is_copied and jax.process_count() > 1:
            self._require_one_host()
        return self._folder / str(step)

    def publish(self, step: int) -> None:
        """Copies a step that Orbax has saved to where it belongs; for one process."""
        if self._is_copied:
            folders.remove_tree(self._directory / str(step))  # an invalid one of this number
            folders.copy_tree(self._folder / str(step), self._directory / str(step))
            folders.remove_tree(self._folder / str(step))

    @contextlib.contextmanager
    def to_read(self, step: int) -> Iterator[epath.Path]:
        """The path at which Orbax can read a step, within the context."""
        folder = self._folder / str(step)
        if not self._is_copied:
            yield folder
            return
        by_first(lambda: folders.copy_tree(self._directory / str(step), folder))
        try:
            yield folder
        finally:
            multihost_utils.sync_global_devices(f"checkpoint {step} is read")
            if jax.process_index() == 0:
                folders.remove_tree(folder)

    def close(self) -> None:
        """Removes links and copies."""
        self._resources.close()

    @functools.cached_property
    def _folder(self) -> epath.Path:
        if self._is_copied:
            return _folder_of_copies(by_first(self._make_copies))
        if is_url(str(self._directory)) or not _NOT_IN_FOLDERS.search(str(self._directory)):
            return self._directory
        temporary = tempfile.TemporaryDirectory(prefix="coca_jax-")
        link = os.path.join(self._resources.enter_context(temporary), "checkpoints")
        os.symlink(self._directory, link)
        return epath.Path(link)

    def _make_copies(self) -> int:
        """Makes a folder for copies, and returns its number."""
        number = secrets.randbits(31)
        self._resources.enter_context(_copies(_folder_of_copies(number)))
        return number

    def _require_one_host(self) -> None:
        host = int.from_bytes(hashlib.sha256(platform.node().encode()).digest()[:4]) >> 1
        if len(set(multihost_utils.process_allgather(np.int32(host)).tolist())) > 1:
            raise UserError(
                f"{self._directory}: processes of several hosts cannot save at s3://; use gs:// or "
                "a folder that all hosts share"
            )


def _folder_of_copies(number: int) -> epath.Path:
    return as_path(files.cache_folder("checkpoints")) / f"{number:08x}"


@contextlib.contextmanager
def _copies(folder: epath.Path) -> Iterator[None]:
    """Makes a folder for local copies, and removes it and those of processes that were killed."""
    for other in folders.children(folder.parent):
        with contextlib.suppress(UserError, OSError), locked(other, "used"):
            folders.remove_tree(other)
    with locked(folder, "used"):
        yield
        folders.remove_tree(folder)
