"""A profile of a few steps in the middle of a run, for TensorBoard, XProf or Perfetto."""

import os
import pathlib
from typing import Any

import jax


class Profiler:
    """Traces the steps from `start` to `start + steps - 1` into the workdir's `profile/`."""

    def __init__(self, workdir: str | os.PathLike, start: int, steps: int):
        """Sets the window; no `steps`, no profile."""
        self._folder = str(pathlib.Path(workdir) / "profile")
        self._window = range(start, start + steps)
        self._on = False

    def step(self, step: int, last_result: Any = None) -> None:
        """Opens or closes the trace; call it before each step.

        Args:
          step: the step about to run.
          last_result: arrays that the step before made, waited for where the trace opens and
            closes, since steps are dispatched ahead of their execution.
        """
        if (step in self._window) == self._on:
            return
        jax.block_until_ready(last_result)
        if self._on:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self._folder)
        self._on = not self._on

    def close(self) -> None:
        """Ends a trace that the run's end has cut short."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False
