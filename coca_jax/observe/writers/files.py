"""Growing files of a run's folder, which may be at a URL."""

import contextlib
from collections.abc import Iterator

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.paths import as_path, is_url
from coca_jax.io.spool import Spool

PART_BYTES = 256 << 10  # of a file at a URL, after which the next one begins


class GrowingFiles:
    """Growing files of a folder, which are sent to it in the background where it is at a URL."""

    def __init__(self, target: epath.Path):
        self._target = target
        self.spool = Spool(target) if is_url(str(target)) else None
        self.folder = as_path(self.spool.folder) if self.spool else target
        self.folder.mkdir(parents=True, exist_ok=True)

    def send(self) -> None:
        """Begins to copy what is new."""
        if self.spool:
            with self._named_errors():
                self.spool.sync()

    def close(self) -> None:
        """Copies the rest."""
        if self.spool:
            with self._named_errors():
                self.spool.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the packages of stores have errors of their own
            name = type(error).__name__
            raise UserError(
                f"metrics in {self._target} cannot be written: {name}: {error}"
            ) from error
