"""All writers of a run, as one."""

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import Any, SupportsFloat

from ml_collections import ConfigDict

from coca_jax.observe.writers.background import BackgroundWriter
from coca_jax.observe.writers.record import recorded
from coca_jax.observe.writers.registry import Writer, default_writers, options_of, writers
from coca_jax.observe.writers.samples import samples_of

Section = Mapping[str, Any] | ConfigDict
RECORD = "jsonl"  # the one whose failure stops a run


class MetricWriter:
    """The writers that a configuration names, as one. One process of a run has it."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        resume_step: int | None = None,
        config: Section | None = None,
    ):
        """Opens the writers; all but `jsonl` in the background.

        Args:
          workdir: the run's folder, made if missing.
          resume_step: the step the run goes on from. Metrics that an earlier attempt wrote of
            later steps are dropped, so that curves have no step twice. None keeps everything.
          config: `config.metrics`; None: its defaults.
        """
        names = default_writers() if config is None else config["writers"]
        options = {} if config is None else config["options"]
        make = {
            name: functools.partial(_open, name, workdir, resume_step, options.get(name, {}))
            for name in names
        }
        self._writers: list[Writer | BackgroundWriter] = []
        if RECORD in make:
            self._writers.append(make.pop(RECORD)())
        # Read before anything is written: a tracker that opens late would get that twice.
        late = {name for name in make if getattr(writers[name], "takes_backlog", False)}
        backlog = recorded(workdir, resume_step) if late else []
        for name, opening in make.items():
            self._writers.append(BackgroundWriter(name, opening, backlog if name in late else ()))

    def write(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes scalars (Python, NumPy or JAX) under their names, such as train/loss.

        Raises:
          UserError: metrics.jsonl cannot be written, because the disk is full for example.
        """
        values = {name: float(value) for name, value in metrics.items()}
        for writer in self._writers:
            writer.write(int(step), values)

    def write_samples(self, step: int, artifacts: Mapping[str, Mapping[str, Any]]) -> None:
        """Hands the images and texts that evaluations drew to the writers that show them.

        Args:
          step: the model's.
          artifacts: of each evaluation, by its name.
        """
        if samples := samples_of(artifacts):
            for writer in self._background():
                writer.write_samples(int(step), samples)

    def close(self) -> None:
        """Closes all writers.

        Raises:
          UserError: what is left could not be sent to a store.
        """
        for writer in self._background():
            writer.end()
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def _background(self) -> list[BackgroundWriter]:
        return [writer for writer in self._writers if isinstance(writer, BackgroundWriter)]

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _open(
    name: str, workdir: str | os.PathLike, resume_step: int | None, options: Section
) -> Writer:
    defaults = options_of(name)
    if defaults is None:
        return writers[name](workdir, resume_step)
    return writers[name](workdir, resume_step, type(defaults)(**options))
