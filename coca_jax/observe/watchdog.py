"""A watchdog: says where every thread stands when a step takes far longer than steps do.

Heartbeats between processes do not see one that lives but is stuck, in a collective that another
never entered or on a dead file system.
"""

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from coca_jax.errors import ExitCode

HISTORY = 100  # steps whose median is compared with


class Watchdog(contextlib.AbstractContextManager):
    """Barks when the time since the last `beat` is too long, once for each stuck step."""

    def __init__(self, factor: float, seconds: float, end: bool = False, out: TextIO | None = None):
        """Starts to watch.

        Args:
          factor: a step so many times longer than the median of the last ones is stuck; 0: never.
          seconds: and no step that is shorter than this.
          end: whether to end the process then (with `ExitCode.BUG`, and no clean-up, which would
            wait for what is stuck).
          out: a file of the operating system to write to; standard error by default.
        """
        self._factor, self._seconds, self._end = factor, seconds, end
        self._out = sys.stderr if out is None else out
        self._intervals: deque[float] = deque(maxlen=HISTORY)
        self._last, self._watching = time.monotonic(), True
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if factor:
            self._thread.start()

    def beat(self) -> None:
        """Notes that a step was made."""
        now = time.monotonic()
        self._intervals.append(now - self._last)
        self._last, self._watching = now, True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within it is no step and may take as long as it takes."""
        self._watching = False
        try:
            yield
        finally:
            self._last, self._watching = time.monotonic(), True

    @property
    def limit(self) -> float:
        """Seconds after which a step counts as stuck."""
        median = statistics.median(self._intervals) if self._intervals else 0.0
        return max(self._seconds, self._factor * median)

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._factor:
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4 + 0.01)):
            since = time.monotonic() - self._last
            if self._watching and since > self.limit:
                self._watching = False
                self._bark(since)

    def _bark(self, since: float) -> None:
        typical = statistics.median(self._intervals) if self._intervals else 0.0
        print(
            f"the step under way takes {since:.1f} s so far, and steps here take {typical:.3g} s; "
            "all threads stand here:",
            file=self._out,
            flush=True,
        )
        faulthandler.dump_traceback(self._out)
        if self._end:
            print("config.watchdog.end is set: ending the process", file=self._out, flush=True)
            os._exit(ExitCode.BUG)
