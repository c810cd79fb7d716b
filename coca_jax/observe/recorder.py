"""The record of a run while it goes: metrics on disk, progress on the screen."""

import os
from collections.abc import Mapping
from typing import Any, SupportsFloat

from coca_jax.observe.progress import Progress
from coca_jax.observe.writers.metric_writer import MetricWriter, Section


class Recorder:
    """Metrics and progress together, of the one process of a run that is not silent."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        steps: int,
        done: int,
        silent: bool = False,
        config: Section | None = None,
    ):
        """Opens the files and shows the first progress.

        Args:
          workdir: the run's folder.
          steps: the number of steps of the whole run.
          done: the step that the run goes on from; metrics of later steps are dropped.
          silent: whether no call does anything.
          config: `config.metrics`; None: its defaults.
        """
        self._writer = None if silent else MetricWriter(workdir, done, config)
        self._progress = None if silent else Progress(steps, done)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Writes scalars under their names."""
        if self._writer is not None:
            self._writer.write(step, values)

    def write_samples(self, step: int, artifacts: Mapping[str, Mapping[str, Any]]) -> None:
        """Hands what evaluations drew to the writers that show images."""
        if self._writer is not None:
            self._writer.write_samples(step, artifacts)

    def update(self, step: int, values: Mapping[str, SupportsFloat] | None) -> None:
        """Shows that `step` steps are done, at a log point with its metrics."""
        if self._progress is not None:
            self._progress.update(step, values)

    def log(self, step: int, values: Mapping[str, SupportsFloat] | None) -> None:
        """Shows that `step` steps are done; at a log point writes and shows its metrics."""
        if values:
            self.write(step, values)
        self.update(step, values)

    def print(self, text: str) -> None:
        """Prints text next to the progress."""
        if self._progress is not None:
            self._progress.print(text)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._progress is not None:
                self._progress.close()
        finally:
            if self._writer is not None:
                self._writer.close()
