"""Goodput: the share of a run's wall time that went into steps that count.

`goodput.json` in the workdir has one record for each attempt (start of the program) of the run, so
that the cost of restarts is counted, too.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coca_jax.io import files
from coca_jax.io.messages import counted
from coca_jax.io.paths import join
from coca_jax.io.stored import Damaged, fits, is_number, is_step, left_out, read_json

FILE = "goodput.json"
KINDS = ("start", "compile", "data", "checkpoint", "evaluation")  # of time outside steps


class Goodput:
    """The time of one attempt by kind, added to the records of the attempts before it.

    Times are seconds of wall clock. Time that no `spent` covers is time of steps.
    """

    def __init__(self, workdir: str | os.PathLike, began: float):
        """Reads the earlier attempts.

        Args:
          workdir: the run's folder.
          began: `time.time()` when this attempt began.
        """
        self._path = join(workdir, FILE)
        self._earlier = read_attempts(workdir)
        self._began, self._first_step = began, 0
        # The time of day may be set back during the run.
        self._begin = time.monotonic() - max(0.0, time.time() - began)
        self._seconds = dict.fromkeys(KINDS, 0.0)

    def start(self, step: int) -> None:
        """Notes that training goes on from `step` now; the time before was spent on the start."""
        self._first_step = step
        self._seconds["start"] += time.monotonic() - self._begin - sum(self._seconds.values())

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """A block whose time counts as `kind`, one of `KINDS`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[kind] += time.monotonic() - begin

    def read(self, step: int) -> dict[str, float]:
        """The `totals` of all attempts, this one up to `step`, as metrics goodput/..."""
        return {f"goodput/{k}": v for k, v in totals([*self._earlier, self._record(step)]).items()}

    def write(self, step: int) -> None:
        """Writes the file with this attempt's record, up to `step`."""
        record = json.dumps([*self._earlier, self._record(step)], indent=1)
        files.write_whole(self._path, record.encode())

    def _record(self, step: int) -> dict[str, Any]:
        wall = time.monotonic() - self._begin
        seconds = self._seconds | {"step": max(0.0, wall - sum(self._seconds.values()))}
        return {
            "began": self._began,
            "first_step": self._first_step,
            "last_step": step,
            "seconds": seconds,
        }


def totals(attempts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all attempts by kind, and their productive share.

    Steps beyond one that a later attempt went on from are lost: their time moves from `step` to
    `lost`. The time between attempts, when nothing ran, is `away` and no part of `wall`.
    """
    sums = dict.fromkeys((*KINDS, "step", "lost", "away"), 0.0)
    for number, attempt in enumerate(attempts, 1):
        for kind, seconds in attempt["seconds"].items():
            sums[kind] += seconds
        if not (later := attempts[number:]):
            continue
        first, last = attempt["first_step"], attempt["last_step"]
        undone = max(0, last - max(first, min(each["first_step"] for each in later)))
        lost = attempt["seconds"]["step"] * undone / max(1, last - first)
        sums["step"], sums["lost"] = sums["step"] - lost, sums["lost"] + lost
        end = attempt["began"] + sum(attempt["seconds"].values())
        sums["away"] += max(0.0, later[0]["began"] - end)
    wall = sum(sums.values()) - sums["away"]
    return {
        "share": sums["step"] / wall if wall > 0 else 0.0,
        "attempts": float(len(attempts)),
        "wall_seconds": wall,
        **{f"{kind}_seconds": seconds for kind, seconds in sums.items()},
    }


def read_attempts(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The attempts' records, in order; damaged ones are left out, and named on standard error."""
    path = join(workdir, FILE)
    try:
        records = read_json(path, list)
    except FileNotFoundError:
        return []
    except Damaged as error:
        left_out(path, f"{error}; attempts before this one do not count")
        return []
    good = [attempt for attempt in records if _is_record(attempt)]
    if len(good) < len(records):
        words = "damaged records, which are left out"
        left_out(path, f"has {counted(len(records) - len(good), words)}")
    return good


def _is_record(attempt: Any) -> bool:
    """Whether this is the record of an attempt, as `Goodput` writes it."""
    steps = {"first_step": is_step, "last_step": is_step}
    if not fits(attempt, steps | {"began": float, "seconds": {"step": float}}):
        return False
    kinds = attempt["seconds"].items()
    return all(kind in (*KINDS, "step") and is_number(s) and s >= 0 for kind, s in kinds)
