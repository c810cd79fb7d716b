"""TensorBoard's event files."""

import contextlib
import html
import os
import time
from collections.abc import Mapping, Sequence

from coca_jax.io.background import hush
from coca_jax.io.paths import as_path
from coca_jax.observe.writers import files
from coca_jax.observe.writers.record import configuration
from coca_jax.observe.writers.samples import Sample

_QUEUE = 10_000  # values that wait for TensorBoard's thread; where it has ended, more would block


class TensorBoardWriter:
    """Writes event files to `tensorboard/`; on a store, a new one where the last is large."""

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens a new file; see `MetricWriter`."""
        self._files = files.GrowingFiles(as_path(workdir) / "tensorboard")
        self._open(None if resume_step is None else resume_step + 1)
        if text := configuration(workdir).text:
            self._board.add_text("config", f"```json\n{text}\n```", resume_step or 0)

    def _open(self, purge_step: int | None) -> None:
        from tensorboardX import SummaryWriter  # half a second that readers need not pay

        hush()
        suffix = f".{time.time_ns()}"  # or two writers of one second share a file
        self._board = SummaryWriter(
            str(self._files.folder),
            purge_step=purge_step,
            max_queue=_QUEUE,
            filename_suffix=suffix,
        )
        # Not `glob`, to which a folder such as `lr[1e-3]` is a pattern.
        (self._path,) = [p for p in self._files.folder.iterdir() if p.name.endswith(suffix)]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queues the values for the writing thread."""
        if self._is_alive():
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        self._send()

    def write_samples(self, step: int, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Queues images, each under a name of its own, and the texts of all of them."""
        for name, group in samples.items() if self._is_alive() else ():
            for number, sample in enumerate(group):
                tag = f"{name}/{number:02}"
                self._board.add_image(tag, sample.pixels(), step, dataformats="HWC")
            self._board.add_text(name, _table(group), step)
        self._send()

    def _is_alive(self) -> bool:
        # The thread ends where the disk is full, and then its queue would block forever.
        return self._board.file_writer.event_writer._worker.is_alive()

    def _send(self) -> None:
        if not self._files.spool:
            return
        self._board.flush()
        self._files.send()
        if self._path.stat().length >= files.PART_BYTES:
            self._board.close()
            self._open(None)

    def close(self) -> None:
        """Writes what is queued and closes the file."""
        with contextlib.suppress(OSError):
            self._board.close()
        self._files.close()


def _table(samples: Sequence[Sample]) -> str:
    """A table in Markdown, of the images' numbers and texts."""
    rows = [("image", "text"), ("---", "---")]
    for number, sample in enumerate(samples):
        lines = sample.text.replace("|", "\\|").splitlines()
        rows.append((f"{number:02}", "<br>".join(map(html.escape, lines))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
