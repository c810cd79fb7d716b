"""A profile of a few steps in the middle of a run, for TensorBoard, XProf or Perfetto."""

import os
import tempfile
from typing import Any

import jax

from coca_jax.io.folders import copy_tree
from coca_jax.io.paths import is_url, join


class Profiler:
    """Traces the steps from `start` to `start + steps - 1` into the workdir's `profile/`."""

    def __init__(self, workdir: str | os.PathLike, start: int, steps: int):
        """Sets the window; 0 `steps` make no profile."""
        self._target = join(workdir, "profile")
        self._local = None
        self._window = range(start, start + steps)
        self._on = False

    def step(self, step: int, last_result: Any = None) -> None:
        """Opens or closes the trace; call it before each step.

        Args:
          step: the step about to run.
          last_result: arrays that the last step returned. They are waited for where the trace
            opens and closes, since steps are dispatched ahead of their execution.
        """
        if (step in self._window) == self._on:
            return
        jax.block_until_ready(last_result)
        if self._on:
            self.close()
            return
        if is_url(self._target):  # the profiler writes to local folders
            self._local = tempfile.TemporaryDirectory(prefix="coca_jax-profile-")
        jax.profiler.start_trace(self._local.name if self._local else self._target)
        self._on = True

    def close(self) -> None:
        """Ends the trace if one is open, as where the run ends within the window."""
        if not self._on:
            return
        jax.profiler.stop_trace()
        self._on = False
        if self._local:
            copy_tree(self._local.name, self._target)
            self._local.cleanup()
