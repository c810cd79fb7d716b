"""The best checkpoint of a run: of the steps that are saved, the one with the best metric.

It is a function of what is in the workdir: the steps in `checkpoints`, and of each the metrics in
`eval/<step>.json` and the evaluations' options in `eval/<step>/options.json`, which evaluations
write. So it is the same for every process, and after a kill.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

from coca_jax.io.paths import join
from coca_jax.io.stored import EVAL_OPTIONS, Damaged, are_metrics, is_number, read_json


@dataclasses.dataclass(frozen=True)
class Best:
    """How a run's best checkpoint is chosen: `checkpoint.keep_best` and `checkpoint.best_mode`."""

    workdir: str | os.PathLike
    metric: str  # "evaluation/metric"
    mode: str  # min or max
    options: Any = None  # of the evaluation, as JSON; None: values of any options count

    @classmethod
    def of(cls, workdir: str | os.PathLike, config: Any) -> "Best | None":
        """As a configuration says; None: it keeps none.

        Args:
          workdir: the run's folder.
          config: the whole configuration.
        """
        metric, mode = config.checkpoint.keep_best, config.checkpoint.best_mode
        if not metric:
            return None
        section = config.eval.get(metric.partition("/")[0])
        options = None if section is None else json.loads(section.to_json())
        return cls(workdir, metric, mode, options)

    def value(self, step: int) -> float | None:
        """The metric of a step; None: it has none, or one that is undefined or damaged."""
        evaluation, _, metric = self.metric.partition("/")
        try:
            results = read_json(join(self.workdir, "eval", f"{step}.json")).get(evaluation)
        except (FileNotFoundError, Damaged):
            return None
        value = results.get(metric) if are_metrics(results) else None
        return float(value) if is_number(value) else None

    def step(self, steps: Iterable[int]) -> int | None:
        """The best of `steps`, the first of equal ones; None: no step has the metric.

        Only values that were measured with the run's own options count: 100 examples have another
        loss than all.
        """
        sign = 1 if self.mode == "min" else -1
        values = {step: self.value(step) for step in sorted(steps)}
        values = {step: sign * value for step, value in values.items() if value is not None}
        alike = [step for step in values if self._has_options(step)]
        return min(alike, key=lambda step: values[step], default=None)

    def _has_options(self, step: int) -> bool:
        """Whether the step was evaluated with the run's options, or it is not known with which."""
        try:
            sections = read_json(join(self.workdir, "eval", str(step), EVAL_OPTIONS))
        except (FileNotFoundError, Damaged):
            return True
        stored = sections.get(self.metric.partition("/")[0])
        return self.options is None or stored in (None, self.options)

    def described(self, step: int) -> str:
        """A step and its metric in words."""
        value = self.value(step)
        number = "-" if value is None else f"{value:.6g}"
        return f"step {step}, {self.metric} {number} ({self.mode})"
