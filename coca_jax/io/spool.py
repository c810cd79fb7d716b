"""A local folder whose growing files are copied to an object store, which cannot append."""

import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from coca_jax.io.files import write_whole
from coca_jax.io.paths import join


class Spool:
    """Files that are written locally and copied, whole, when they have changed.

    What a file should cost is its writer's affair: many small files, each no longer touched once
    it has some size, are copied once each.

    Attributes:
      folder: the local folder to write to.
    """

    def __init__(self, target: str | os.PathLike):
        """Makes an empty local folder for a folder at a URL."""
        self._temporary = tempfile.TemporaryDirectory(prefix="coca_jax-")
        self.folder = Path(self._temporary.name)
        self._target = os.fspath(target)
        self._sent: dict[str, int] = {}  # sizes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._copying: Future | None = None

    def sync(self) -> None:
        """Begins to copy what has changed, unless a copy is under way: then the next call does.

        Raises:
          OSError, or what the store's package raises: the copy before this one failed.
        """
        if self._copying is not None:
            if not self._copying.done():
                return
            self._copying.result()
        self._copying = self._pool.submit(self._copy)

    def close(self) -> None:
        """Copies the rest and removes the local folder.

        Raises:
          OSError, or what the store's package raises: it could not be copied.
        """
        try:
            self._pool.shutdown(wait=True)
            self._copy()
        finally:
            self._temporary.cleanup()

    def _copy(self) -> None:
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if self._sent.get(name) != (size := path.stat().st_size):
                write_whole(join(self._target, name), path.read_bytes())
                self._sent[name] = size
