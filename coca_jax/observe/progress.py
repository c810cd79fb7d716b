"""Training progress: a bar on a terminal, a plain line at each log point elsewhere."""

import datetime
import sys
import time
from collections.abc import Mapping
from typing import SupportsFloat

from tqdm import tqdm


class Progress:
    """The step, the loss, the speed and the time left, on standard error."""

    def __init__(self, total_steps: int, first_step: int = 0):
        """Starts at `first_step`, the number of steps done before."""
        self._stream = sys.stderr
        self._total = total_steps
        self._logged: tuple[int, float] | None = None  # the step and time of the first log point
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=first_step,
                unit="step",
                dynamic_ncols=True,
                file=self._stream,
            )

    def update(self, step: int, metrics: Mapping[str, SupportsFloat] | None = None) -> None:
        """Notes that `step` steps are done; at a log point, pass the metrics.

        Of these, `train/loss` and `train/examples_per_second` are shown.
        """
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            if metrics is not None:
                self._bar.set_postfix_str("  ".join(_shown(metrics)))
        elif metrics is not None:
            done = f"step {step:,}/{self._total:,} ({step / self._total:.0%})"
            print("  ".join([done, *_shown(metrics), *self._left(step)]), file=self._stream)
            self._stream.flush()

    def print(self, text: str) -> None:
        """Prints text above the bar; without a bar, as it is."""
        tqdm.write(text, file=self._stream)

    def close(self) -> None:
        """Ends the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, step: int) -> list[str]:
        """The time left, at the mean pace since the first log point (after compilation)."""
        now = time.monotonic()
        if self._logged is None:
            self._logged = (step, now)
        first, then = self._logged
        if step == first:
            return []
        seconds = (now - then) / (step - first) * (self._total - step)
        return [f"{datetime.timedelta(seconds=round(seconds))} left"]


def _shown(metrics: Mapping[str, SupportsFloat]) -> list[str]:
    formats = {"train/loss": "loss {:.4f}", "train/examples_per_second": "{:,.0f} examples/s"}
    return [text.format(float(metrics[k])) for k, text in formats.items() if k in metrics]
