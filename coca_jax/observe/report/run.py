"""What a run has left in its workdir, as far as it has come.

- `config.json`: `config` is the configuration; the other entries (commit, versions, ...) are facts
  for the page's head.
- `metrics.jsonl`: see `coca_jax.observe.writers`.
- `eval/<step>.json`: evaluation -> metric -> value; an evaluation's first metric is its headline.
  Its `notes` say why some are undefined.
- `eval/<step>/artefacts.json`: evaluation -> any of `samples` (image, caption, log_probability,
  references, exact, attention), `questions` (image, question, answer, given, accuracy),
  `text_to_image` (text, items), `image_to_text` (image, items), and `confusion` with `class_names`
  or, of many classes, `confused` (label, prediction, count, of).
  An image is the name of a file beside it, which is of its content: the same at every step.
  Attention is a list of (word, map), a map the weights of rows of patches.
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
from coca_jax.observe.report.stored import is_drawable
from coca_jax.observe.writers import read_metrics

Curve = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's record."""

    name: str
    facts: dict[str, Any]
    config: dict[str, Any]
    records: list[dict[str, Any]]
    evaluations: dict[int, dict[str, dict[str, float]]]
    """Step -> evaluation -> metric -> value, in the order of the steps."""
    notes: dict[int, dict[str, dict[str, str]]]
    """Step -> evaluation -> metric that is undefined -> the reason."""
    artefacts: dict[str, dict[str, Any]]
    artefacts_folder: epath.Path
    captions: dict[str, dict[int, dict[str, dict[str, Any]]]]
    """Evaluation -> step -> image -> caption, exact, ...; in the order of the steps."""
    attempts: list[dict[str, Any]]
    """What each start of the program spent its time with; see `observe/goodput.py`."""

    @property
    def last(self) -> dict[str, Any]:
        """The newest value of every metric that was ever logged."""
        return {name: value for record in self.records for name, value in record.items()}

    @property
    def x_label(self) -> str:
        """What curves are drawn over: examples seen, or steps where these are not known."""
        return "examples seen" if "train/examples_seen" in self.last else "step"

    def curve(self, metric: str) -> Curve:
        """Returns where (see `x_label`) and how large a logged metric was."""
        records = [record for record in self.records if metric in record]
        steps = np.array([record["step"] for record in records], float)
        return self._place(steps), np.array([record[metric] for record in records], float)

    def evaluation_curve(self, evaluation: str, metric: str) -> Curve:
        """Likewise for a metric of an evaluation."""
        values = {
            step: metrics[evaluation][metric]
            for step, metrics in self.evaluations.items()
            if metric in metrics.get(evaluation, {})
        }
        return self._place(np.array(list(values), float)), np.array(list(values.values()), float)

    def _place(self, steps: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        pairs = [(r["step"], r["train/examples_seen"]) for r in self.records if _is_placed(r)]
        return np.interp(steps, *np.array(pairs, float).T) if pairs else steps


def read_run(workdir: str | os.PathLike, copy: Any = None) -> Run:
    """Reads the workdir; what is damaged in it is left out, and named on standard error.

    Args:
      workdir: the run's folder.
      copy: of its configuration, from a checkpoint, which is taken if `config.json` is damaged.

    Raises:
      UserError: there is nothing of a run in it, or no configuration of it that is not damaged.
    """
    workdir = as_path(workdir)
    described = _described(workdir / "config.json", copy)
    records = read_metrics(workdir)
    if not described and not records:
        raise UserError(f"{workdir} has neither config.json nor metrics.jsonl: it is no workdir")
    steps = sorted(int(p.name) for p in children(workdir / "eval") if p.name.isdecimal())
    artefacts = {s: _read_parts(workdir / f"eval/{s}/artefacts.json", is_drawable) for s in steps}
    artefacts = {step: found for step, found in artefacts.items() if found}
    newest = max(artefacts, default=None)
    evaluations, notes = _evaluations(workdir, records)
    return Run(
        name=workdir.name,
        facts={key: value for key, value in described.items() if key != "config"},
        config=described.get("config", {}),
        records=records,
        evaluations=evaluations,
        notes=notes,
        artefacts=artefacts.get(newest, {}),
        artefacts_folder=workdir / "eval" / str(newest),
        captions=_captions(artefacts),
        attempts=read_attempts(workdir),
    )


def _evaluations(
    workdir: epath.Path, records: list[dict[str, Any]]
) -> tuple[dict[int, dict[str, dict[str, float]]], dict[int, dict[str, dict[str, str]]]]:
    """Returns what `metrics.jsonl` and `eval/<step>.json` say; they agree where both speak.

    And the notes of the latter.
    """
    found: dict[int, dict[str, dict[str, float]]] = {}
    notes: dict[int, dict[str, dict[str, str]]] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith("eval/") and key.count("/") > 1:
                evaluation, metric = key.removeprefix("eval/").rsplit("/", 1)
                found.setdefault(record["step"], {}).setdefault(evaluation, {})[metric] = value
    for path in children(workdir / "eval"):
        if not re.fullmatch(r"[0-9]+\.json", path.name):
            continue
        for evaluation, metrics in _read_parts(path, are_metrics).items():
            undefined = metrics.pop("notes", {})
            numbers = {
                name: math.nan if value is None else float(value)
                for name, value in metrics.items()
                if name not in undefined
            }
            found.setdefault(int(path.stem), {})[evaluation] = numbers
            notes.setdefault(int(path.stem), {})[evaluation] = undefined
    return dict(sorted(found.items())), notes


def _captions(
    artefacts: dict[int, dict[str, dict[str, Any]]],
) -> dict[str, dict[int, dict[str, dict[str, Any]]]]:
    found: dict[str, dict[int, dict[str, dict[str, Any]]]] = {}
    for step, evaluations in artefacts.items():
        for name, left in evaluations.items():
            if samples := left.get("samples"):
                by_image = {sample["image"]: sample for sample in samples}
                found.setdefault(name, {})[step] = by_image
    return found


def _is_placed(record: dict[str, Any]) -> bool:
    return math.isfinite(record.get("train/examples_seen", math.nan))


def _described(path: epath.Path, copy: Any) -> dict[str, Any]:
    """What `config.json` holds, or the copy of its configuration."""
    try:
        found, why = read_json(path), "holds no configuration"
    except FileNotFoundError:
        found, why = {} if copy is None else None, "is missing"
    except Damaged as error:
        found, why = None, str(error)
    if found == {} or (found and _is_configuration(found.get("config", {}))):
        return found
    if not _is_configuration(copy):
        raise UserError(f"{path} {why}; no checkpoint has a good copy of it")
    left_out(path, f"{why}; the copy in the newest checkpoint is shown")
    return {"config": copy}


def _is_configuration(config: Any) -> bool:
    train = config.get("train", {}) if isinstance(config, dict) else None
    return isinstance(train, dict) and fits(train.get("steps", 1), int)


def _read_parts(path: epath.Path, is_good: Callable[[Any], bool]) -> dict[str, Any]:
    """The evaluations in a file of them, as far as they are what is written there."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        left_out(path, str(error))
        return {}
    good = {name: content for name, content in found.items() if is_good(content)}
    if wrong := found.keys() - good.keys():
        left_out(path, f"has damaged evaluations, which are left out: {', '.join(sorted(wrong))}")
    return good
