"""The record that a run has left in its workdir, finished or not.

- `config.json`: `config` is the configuration; the other entries (commit, versions, ...) are facts
  for the page's head.
- `metrics.jsonl`: see `coca_jax.observe.writers`.
- `goodput.json`: see `coca_jax.observe.goodput`.
- `eval/<step>.json`: evaluation -> metric -> value; an evaluation's first metric is its headline.
  Its `notes` say why a metric is undefined.
- `eval/<step>/artifacts.json`: see `coca_jax.observe.report.artifacts`.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from coca_jax.errors import UserError
from coca_jax.io.folders import children
from coca_jax.io.paths import as_path
from coca_jax.io.stored import Damaged, are_metrics, fits, left_out, read_json
from coca_jax.observe.goodput import read_attempts
from coca_jax.observe.report.artifacts import is_drawable
from coca_jax.observe.report.charts import Curve
from coca_jax.observe.writers import read_metrics

Evaluations = dict[int, dict[str, dict[str, float]]]
"""Step -> evaluation -> metric -> value, in the order of the steps."""
Notes = dict[int, dict[str, dict[str, str]]]
"""Step -> evaluation -> metric that is undefined -> the reason."""
Captions = dict[str, dict[int, dict[str, dict[str, Any]]]]
"""Evaluation -> step -> image -> sample, in the order of the steps."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's record."""

    name: str
    facts: dict[str, Any]
    config: dict[str, Any]
    records: list[dict[str, Any]]
    evaluations: Evaluations
    notes: Notes
    artifacts: dict[str, dict[str, Any]]
    """Evaluation -> its artifacts of the newest step that has any."""
    artifacts_folder: epath.Path
    captions: Captions
    attempts: list[dict[str, Any]]
    """The time of each start of the program; see `observe/goodput.py`."""

    @property
    def last(self) -> dict[str, Any]:
        """The newest value of every metric that was ever logged."""
        return {name: value for record in self.records for name, value in record.items()}

    @property
    def x_label(self) -> str:
        """The unit of the curves' x axis: examples seen, or steps where these are unknown."""
        return "examples seen" if "train/examples_seen" in self.last else "step"

    def curve(self, metric: str) -> Curve:
        """The x (see `x_label`) and the values of a logged metric."""
        records = [record for record in self.records if metric in record]
        steps = np.array([record["step"] for record in records], float)
        return self._x_of(steps), np.array([record[metric] for record in records], float)

    def evaluation_curve(self, evaluation: str, metric: str) -> Curve:
        """The x (see `x_label`) and the values of an evaluation's metric."""
        values = {
            step: metrics[evaluation][metric]
            for step, metrics in self.evaluations.items()
            if metric in metrics.get(evaluation, {})
        }
        return self._x_of(np.array(list(values), float)), np.array(list(values.values()), float)

    def _x_of(self, steps: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        seen = [(r["step"], r.get("train/examples_seen", math.nan)) for r in self.records]
        pairs = [pair for pair in seen if math.isfinite(pair[1])]
        return np.interp(steps, *np.array([(0, 0), *pairs], float).T) if pairs else steps


def read_run(workdir: str | os.PathLike, checkpoint_config: Any = None) -> Run:
    """Reads the workdir; what is damaged in it is left out, and named on standard error.

    Args:
      workdir: the run's folder.
      checkpoint_config: a copy of the run's configuration, for a `config.json` that is damaged.

    Raises:
      UserError: the folder holds nothing of a run, or no configuration that is not damaged.
    """
    workdir = as_path(workdir)
    description = _read_description(workdir / "config.json", checkpoint_config)
    records = read_metrics(workdir)
    if not description and not records:
        raise UserError(f"{workdir} has neither config.json nor metrics.jsonl: it is not a workdir")
    steps = sorted(int(p.name) for p in children(workdir / "eval") if p.name.isdecimal())
    artifacts = {s: _read_json(workdir / f"eval/{s}/artifacts.json", is_drawable) for s in steps}
    artifacts = {step: content for step, content in artifacts.items() if content}
    newest = max(artifacts, default=None)
    evaluations, notes = _read_evaluations(workdir, records)
    return Run(
        name=workdir.name,
        facts={key: value for key, value in description.items() if key != "config"},
        config=description.get("config", {}),
        records=records,
        evaluations=evaluations,
        notes=notes,
        artifacts=artifacts.get(newest, {}),
        artifacts_folder=workdir / "eval" / str(newest),
        captions=_captions(artifacts),
        attempts=read_attempts(workdir),
    )


def _read_evaluations(
    workdir: epath.Path, records: list[dict[str, Any]]
) -> tuple[Evaluations, Notes]:
    """The metrics in `metrics.jsonl` and `eval/<step>.json`, of which the latter counts."""
    evaluations: Evaluations = {}
    notes: Notes = {}
    for record in records:
        for key, value in record.items():
            if key.startswith("eval/") and key.count("/") > 1:
                evaluation, metric = key.removeprefix("eval/").rsplit("/", 1)
                at_step = evaluations.setdefault(record["step"], {})
                at_step.setdefault(evaluation, {})[metric] = value
    for path in children(workdir / "eval"):
        if not re.fullmatch(r"[0-9]+\.json", path.name):
            continue
        step = int(path.stem)
        for evaluation, metrics in _read_json(path, are_metrics).items():
            undefined = metrics.pop("notes", {})
            evaluations.setdefault(step, {})[evaluation] = {
                name: math.nan if value is None else float(value)
                for name, value in metrics.items()
                if name not in undefined
            }
            notes.setdefault(step, {})[evaluation] = undefined
    return dict(sorted(evaluations.items())), notes


def _captions(artifacts: dict[int, dict[str, dict[str, Any]]]) -> Captions:
    captions: Captions = {}
    for step, evaluations in artifacts.items():
        for name, content in evaluations.items():
            if samples := content.get("samples"):
                by_image = {sample["image"]: sample for sample in samples}
                captions.setdefault(name, {})[step] = by_image
    return captions


def _read_description(path: epath.Path, checkpoint_config: Any) -> dict[str, Any]:
    """The content of `config.json`, or else the checkpoint's copy of the configuration."""
    try:
        description, problem = read_json(path), "holds no configuration"
    except FileNotFoundError:
        description, problem = {} if checkpoint_config is None else None, "is missing"
    except Damaged as error:
        description, problem = None, str(error)
    if description == {} or (description and _is_configuration(description.get("config", {}))):
        return description
    if not _is_configuration(checkpoint_config):
        raise UserError(f"{path} {problem}; no checkpoint has a good copy of it")
    left_out(path, f"{problem}; the copy in the newest checkpoint is shown")
    return {"config": checkpoint_config}


def _is_configuration(config: Any) -> bool:
    train = config.get("train", {}) if isinstance(config, dict) else None
    return isinstance(train, dict) and fits(train.get("steps", 1), int)


def _read_json(path: epath.Path, is_valid: Callable[[Any], bool]) -> dict[str, Any]:
    """The evaluations in a file; without damaged ones, which are named on standard error."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        left_out(path, str(error))
        return {}
    valid = {name: evaluation for name, evaluation in content.items() if is_valid(evaluation)}
    if damaged := content.keys() - valid.keys():
        left_out(path, f"has damaged evaluations, which are left out: {', '.join(sorted(damaged))}")
    return valid
