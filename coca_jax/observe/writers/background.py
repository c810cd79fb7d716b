"""A writer that works in a thread of its own, so that it can neither stop nor delay a run."""

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coca_jax.io.messages import counted
from coca_jax.observe.writers.passwords import hidden
from coca_jax.observe.writers.registry import Writer
from coca_jax.observe.writers.samples import Sample

WAITING = 1000  # calls that wait for a slow writer; further ones are lost
RETRY_SECONDS = 60.0  # between two attempts to open one
CLOSE_SECONDS = 30.0  # for the rest, at the end of a run
_SHOWN = 300  # characters of an error
Point = tuple[int, Mapping[str, float]]  # a step and its scalars


class BackgroundWriter:
    """Opens a writer, writes and closes it in one thread; the first failure is reported.

    A writer that cannot be opened is tried again every `RETRY_SECONDS`, while what it is to write
    waits, and once more at the end of a short run. A call that fails is lost, and the next one is
    made.
    """

    def __init__(self, name: str, make: Callable[[], Writer], backlog: Sequence[Point] = ()):
        """Begins to open it.

        Args:
          name: the writer's, for messages.
          make: opens it; called in the thread.
          backlog: steps with scalars that it gets first.
        """
        self._name, self._make, self._backlog = name, make, backlog
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._closing, self._warned = threading.Event(), False
        self._handed = 0  # log points; only the caller's thread counts them,
        self._arrived = 0  # and only the writer's thread these, less what fails of the backlog
        # A daemon, so that the program can end while it hangs.
        self._thread = threading.Thread(target=self._work, name=f"metrics-{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Hands scalars to the thread."""
        self._put("write", step, values)

    def write_samples(self, step: int, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Hands samples to the thread."""
        self._put("write_samples", step, samples)

    def end(self) -> None:
        """Lets the thread write the rest, close the writer and end; waits for nothing."""
        if not self._closing.is_set():
            self._closing.set()
            self._deadline = time.monotonic() + CLOSE_SECONDS
            self._calls.put(("close", ()))

    def close(self) -> None:
        """Waits for the thread to end, at most `CLOSE_SECONDS` after `end`."""
        self.end()
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"it does not end within {CLOSE_SECONDS:g} seconds")
        if missing := self._handed - self._arrived:
            self._say(f"{counted(missing, 'log points are missing')} in {self._name}")

    def _put(self, method: str, *arguments: Any) -> None:
        self._handed += 1
        if self._calls.qsize() < WAITING:
            self._calls.put((method, arguments))
        else:
            self._warn(f"{WAITING:,} log points wait for it, and no more are kept")

    def _work(self) -> None:
        writer, method = self._open(), ""
        for point in self._backlog if writer is not None else ():
            self._arrived -= not self._call(writer, "write", point)
        while method != "close":
            method, arguments = self._calls.get()
            self._arrived += self._call(writer, method, arguments) and method != "close"

    def _call(self, writer: Writer | None, method: str, arguments: tuple[Any, ...]) -> bool:
        """Whether the call succeeds."""
        try:
            if writer is not None and (call := getattr(writer, method, None)):
                call(*arguments)  # most have no method for samples
        except BaseException as error:  # a library may exit, too
            self._warn(described(error))
            return False
        return writer is not None

    def _open(self) -> Writer | None:
        """The open writer; None if it could not be opened until the run ended, nor then."""
        while True:
            is_last = self._closing.is_set()
            try:
                return self._make()
            except BaseException as error:  # a library may exit, too
                self._warn(described(error))
            if is_last:
                return None
            self._closing.wait(RETRY_SECONDS)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(f"metrics do not reach {self._name}: {reason}; the run goes on")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr)


def described(error: BaseException) -> str:
    """An error on one line: its type, its message without secrets, and where it was raised."""
    text = hidden(" ".join(str(error).split()))
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in place)
    return f"{type(error).__name__}: {text}{where}"
