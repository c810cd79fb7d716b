"""Batches of requests as they come: one thread runs the model, for one batch after another."""

import collections
import concurrent.futures
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

Run = Callable[[Hashable, list[Any]], list[Any]]
Observe = Callable[[Hashable, int, float], None]


class Job(NamedTuple):
    """Rows that one request submitted together; they are never divided among batches."""

    rows: Sequence[Any]
    future: concurrent.futures.Future
    arrived: float


class Batcher:
    """Collects jobs of equal keys into batches, and runs these in a thread of its own.

    A batch starts when it is full, or when its oldest job has waited for `max_latency`. The group
    with the oldest job that has waited so long goes first, so that no group waits forever.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int = 32,
        max_latency: float = 0.005,
        observe: Observe = lambda key, rows, seconds: None,
    ):
        """Starts the thread.

        Args:
          run: returns a result for each row, in their order; all have the key.
          max_batch: rows of a batch at most, but for a single job that has more.
          max_latency: seconds that a job waits at most for others while the model is idle.
          observe: is called after each batch with its key, its rows and its seconds.
        """
        self._run, self._observe = run, observe
        self._max_batch, self._max_latency = max_batch, max_latency
        self._groups: dict[Hashable, collections.deque[Job]] = {}
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, key: Hashable, rows: Sequence[Any]) -> concurrent.futures.Future:
        """Queues rows; the future's result is the list of theirs.

        Raises:
          RuntimeError: the batcher is closed.
        """
        job = Job(rows, concurrent.futures.Future(), time.monotonic())
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            self._groups.setdefault(key, collections.deque()).append(job)
            self._changed.notify()
        return job.future

    def is_alive(self) -> bool:
        """Whether the thread runs, so that jobs will be finished."""
        return self._thread.is_alive()

    def waiting(self) -> int:
        """The number of rows that wait for the model."""
        with self._changed:
            return sum(_rows(group) for group in self._groups.values())

    def close(self) -> None:
        """Finishes all jobs that were submitted, then ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            key, jobs = batch
            # A job whose request has gone away is cancelled.
            self._finish(key, [job for job in jobs if job.future.set_running_or_notify_cancel()])

    def _next(self) -> tuple[Hashable, list[Job]] | None:
        """Waits for the next batch; None once the batcher is closed and empty."""
        with self._changed:
            while True:
                if self._groups:
                    key, seconds = self._choose(time.monotonic())
                    if key is not None:
                        return key[0], self._take(key[0])
                elif self._closing:
                    return None
                else:
                    seconds = None
                self._changed.wait(seconds)

    def _choose(self, now: float) -> tuple[tuple[Hashable] | None, float]:
        """The key of the batch to run now, in a tuple; or None, and how long to wait for one."""
        oldest = min(self._groups, key=lambda key: self._groups[key][0].arrived)
        seconds = self._groups[oldest][0].arrived + self._max_latency - now
        if seconds <= 0 or self._closing:
            return (oldest,), 0.0
        for key, group in self._groups.items():
            if _rows(group) >= self._max_batch:
                return (key,), 0.0
        return None, seconds

    def _take(self, key: Hashable) -> list[Job]:
        """Removes the first jobs of a group, as many as fit into a batch, and at least one."""
        group = self._groups[key]
        jobs, count = [group.popleft()], 0
        count = len(jobs[0].rows)
        while group and count + len(group[0].rows) <= self._max_batch:
            jobs.append(group.popleft())
            count += len(jobs[-1].rows)
        if not group:
            del self._groups[key]
        return jobs

    def _finish(self, key: Hashable, jobs: Sequence[Job]) -> None:
        """Runs jobs as one batch; if that fails, each alone, so that only the bad ones fail."""
        rows = [row for job in jobs for row in job.rows]
        begin = time.monotonic()
        try:
            results = self._run(key, rows) if rows else []
            if len(results) != len(rows):
                raise RuntimeError(f"{len(results)} results of {len(rows)} rows")
        except Exception as error:  # whatever the model raises belongs to the request
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._finish(key, [job])
            return
        if rows:
            self._observe(key, len(rows), time.monotonic() - begin)
        taken = iter(results)
        for job in jobs:
            job.future.set_result([next(taken) for _ in job.rows])


def _rows(group: Sequence[Job]) -> int:
    return sum(len(job.rows) for job in group)
