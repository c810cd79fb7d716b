"""A watchdog: prints every thread's stack when a step takes far longer than steps do.

Heartbeats between processes do not notice one that lives but is stuck, in a collective that
another never entered or on a dead file system.
"""

import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

HISTORY = 100  # steps whose median is a typical step


class Watchdog(contextlib.AbstractContextManager):
    """Reports each stuck step once.

    A timer of `faulthandler`, which needs no Python to run, prints the stacks and ends the
    process: it works while a stuck library holds the interpreter's lock, too. A thread explains
    just before it what follows, if it can run.
    """

    def __init__(self, factor: float, seconds: float, end: bool = False, out: TextIO | None = None):
        """Sets the limits; `with` starts to watch.

        Args:
          factor: a step that takes this many times the median of the last ones is stuck; 0: never.
          seconds: a step that takes less than this is never stuck.
          end: whether to end the process then, with exit code 1 and no clean-up, which would wait
            for what is stuck.
          out: a file of the operating system to write to; standard error by default.
        """
        self._factor, self._seconds, self._end = factor, seconds, end
        self._out = sys.__stderr__ if out is None else out  # not what a notebook puts in its place
        self._poll = min(1.0, seconds / 4 + 0.01)
        self._intervals: deque[float] = deque(maxlen=HISTORY)
        self._last, self._watching = time.monotonic(), False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._explain, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Notes that a step is done."""
        self._intervals.append(time.monotonic() - self._last)
        self._watch()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A block that is not a step and may take any time."""
        self._rest()
        try:
            yield
        finally:
            self._watch()

    @property
    def limit(self) -> float:
        """Seconds after which a step counts as stuck."""
        return max(self._seconds, self._factor * self._typical)

    @property
    def _typical(self) -> float:
        return statistics.median(self._intervals) if self._intervals else 0.0

    def __enter__(self) -> "Watchdog":
        if self._factor:
            self._thread.start()
            self._watch()
        return self

    def __exit__(self, *error: object) -> None:
        self._rest()
        self._closed.set()
        if self._factor:
            self._thread.join()

    def _watch(self) -> None:
        self._last, self._watching = time.monotonic(), bool(self._factor)
        if self._factor:
            after = self.limit + 2 * self._poll  # the explanation comes first
            after = min(after, threading.TIMEOUT_MAX)
            faulthandler.dump_traceback_later(after, file=self._out, exit=self._end)

    def _rest(self) -> None:
        self._watching = False
        if self._factor:
            faulthandler.cancel_dump_traceback_later()

    def _explain(self) -> None:
        """Waits for stuck steps; the thread's function."""
        while not self._closed.wait(self._poll):
            since = time.monotonic() - self._last
            if not self._watching or since <= self.limit:
                continue
            self._watching = False
            ending = "; config.watchdog.end is set: the process ends" if self._end else ""
            print(
                f"this step has taken {since:.1f} s so far, and a typical one takes "
                f"{self._typical:.3g} s; the stacks of all threads follow{ending}",
                file=self._out,
                flush=True,
            )
