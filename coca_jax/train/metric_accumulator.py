"""The measurements of steps between two log points: metrics, speed, waiting, finite values."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from coca_jax.data.errors import BAD_KINDS, CUT_TEXT, ERROR_KINDS
from coca_jax.errors import NotFinite, UserError
from coca_jax.train.gradient import Metrics
from coca_jax.train.step import STOP

NEGATIVES = 1024  # pairs, of which at least one should have a wrong caption where data give them
AHEAD = 2  # steps that may be under way


class MetricAccumulator:
    """Collects the metrics of steps without waiting for them, and reads them together."""

    def __init__(
        self,
        work: Callable[[int], tuple[int, int]],
        max_bad_share: float,
        peak_flops: float,
        worst_shards: Callable[[], str] = str,
        left_out: int = 0,
    ):
        """Sets what the measurements are relative to.

        Args:
          work: the examples of a step, and the FLOPs of training with them, by its number.
          max_bad_share: of the examples between two log points that may have been bad.
          peak_flops: FLOP/s that could be done.
          worst_shards: says where most bad examples were.
          left_out: samples and files of the data sets that are in no record.
        """
        self._work, self._max_bad_share, self._peak = work, max_bad_share, peak_flops
        self._worst_shards, self._left_out = worst_shards, left_out
        self.stopping = False  # whether a process was asked to stop, in a step that is done
        self._pending: list[tuple[int, Metrics]] = []
        self._without_negatives: int | None = 0  # pairs; None: one had a wrong caption
        self.restart()

    def restart(self) -> None:
        """Restarts the clock, after work that is not training."""
        self._begin, self._waited = time.perf_counter(), 0.0
        self._steps = self._examples = self._flops = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time is not training."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context whose time counts as waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def add(self, step: int, metrics: Metrics) -> None:
        """Keeps a step's metrics, which may still be computed.

        Waits for the step `AHEAD` before it: steps dispatched without end would delay a stop
        that was asked for, and let the progress run ahead of the device.
        """
        self._pending.append((step, metrics))
        examples, flops = self._work(step)
        self._steps += 1
        self._examples += examples
        self._flops += flops
        if len(self._pending) > AHEAD:
            self._look(jax.block_until_ready(self._pending[-1 - AHEAD][1]))

    def read(self) -> dict[str, float]:
        """The last step's metrics, sums of counts of replaced examples, rates, under train/.

        Raises:
          NotFinite: a step's loss, gradient or new parameters were not finite.
          UserError: more than the allowed share of examples was bad, or none of the first
            `NEGATIVES` pairs had the wrong caption that the data should give.
        """
        fetched = jax.device_get(self._pending)
        self._pending = []
        for step, metrics in fetched:
            _check_finite(step, metrics)
            self._look(metrics)
        seconds = time.perf_counter() - self._begin
        values = {name: float(value) for name, value in fetched[-1][1].items() if name != STOP}
        replaced = {
            kind: float(sum(metrics[kind] for _, metrics in fetched))
            for kind in ERROR_KINDS
            if kind in values
        }
        examples = sum(self._work(step)[0] for step, _ in fetched)
        self._check_share(replaced, examples)
        if CUT_TEXT in values:
            values[CUT_TEXT] = float(sum(metrics[CUT_TEXT] for _, metrics in fetched))
        self._check_negatives([m.get("negative_share") for _, m in fetched], examples)
        values |= replaced | {
            "examples_per_second": self._examples / seconds,
            "step_seconds": seconds / self._steps,
            "data_wait_share": self._waited / seconds,
            "mfu": self._flops / seconds / self._peak,
        }
        if self._left_out:
            values["left_out"] = float(self._left_out)
        self.restart()
        return {f"train/{name}": value for name, value in values.items()}

    def _look(self, metrics: dict[str, Any]) -> None:
        self.stopping |= bool(metrics.get(STOP, 0))

    def _check_share(self, replaced: dict[str, float], examples: int) -> None:
        bad = {kind: replaced[kind] for kind in BAD_KINDS if kind in replaced}
        # A substitute may be unusable, too, so that there can be more of them than rows.
        share = sum(bad.values()) / (examples + sum(replaced.values()))
        if share > self._max_bad_share:
            worst = self._worst_shards()
            raise UserError(
                f"{share:.0%} of the last examples drawn were bad ({bad}), and "
                f"config.data.max_bad_share={self._max_bad_share} are allowed; `train/bad_*` in "
                "metrics.jsonl shows since when" + (f"; most were in {worst}" if worst else "")
            )

    def _check_negatives(self, shares: list[Any], examples: int) -> None:
        if self._without_negatives is None or None in shares:
            return
        self._without_negatives = None if any(shares) else self._without_negatives + examples
        if (self._without_negatives or 0) >= NEGATIVES:
            raise UserError(
                f"none of the first {self._without_negatives:,} pairs had a wrong caption: no "
                "record of the data sets has the field that config.data.train.negatives names, or "
                "that of a data set in config.data.sources; negatives='' trains without them"
            )


def _check_finite(step: int, metrics: dict[str, Any]) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise NotFinite(
            f"step {step} is not finite: {', '.join(sorted(bad))}; nothing after the last "
            "checkpoint is kept. A lower optimizer.learning_rate, a longer optimizer.warmup_steps "
            "or optimizer.clip_norm may help"
        )
