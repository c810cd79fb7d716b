"""`coca compare`: trains the runs of a sweep and puts their metrics into tables."""

import os
import statistics
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints.processes import by_first, say
from coca_jax.errors import Incomplete, NotFinite, UserError
from coca_jax.evaluate.results import read_newest, write_json
from coca_jax.io.locks import locked
from coca_jax.io.messages import counted
from coca_jax.io.paths import as_path
from coca_jax.observe.report import write_report
from coca_jax.observe.report.sweep import FILE
from coca_jax.observe.writers import read_metrics
from coca_jax.sweep.runs import Run, Stage, planned_runs, stage_order, stages_of
from coca_jax.sweep.validation import shard_errors, sweep_errors
from coca_jax.train.loop import train
from coca_jax.train.workdir import is_finished

LOCK_TIMEOUT_S = 600.0  # seconds for other shards, each of which reads all runs


class Comparison(NamedTuple):
    """What a call of `compare` has come to."""

    results: dict[str, Any]  # the content of `compare.json`; empty but in process 0
    failures: list[str]  # the runs that ended early in this call: row, seed and stage

    def raise_failures(self) -> None:
        """Raises `Incomplete` with the names of the runs that ended early, if any did."""
        if self.failures:
            ended = counted(len(self.failures), "runs ended early")
            raise Incomplete(f"{ended}: {'; '.join(self.failures)}; the same command tries again")


def compare(
    config: ConfigDict,
    workdir: str | os.PathLike,
    start_time: float | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Comparison:
    """Trains and evaluates every run that is not finished.

    Writes `compare.json` and `report.html` after each. A run with a step that is not finite ends
    early, is named on standard error, and leaves the others as they are.

    All rows of one seed come before the next seed. So changes in a machine's speed do not favor a
    row, and the tables of an unfinished sweep have all rows. Several calls may share the folder,
    each with a shard of its own; each writes what all of them have finished by then.

    Args:
      config: the sweep.
      workdir: its folder; each run has `<row>/<seed>/<stage>` in it.
      start_time: `time.time()` at the start of the program; None: now.
      shard: (k, n): only every n-th run, from the k-th on, is trained here; k = 0: no run is.

    Returns:
      The results, see `results`; call `raise_failures` when they are shown.

    Raises:
      Preempted: a signal asked to stop; the same call goes on.
      UserError: the sweep, or one of its experiments, is wrong.
    """
    workdir = as_path(workdir)
    errors = sweep_errors(config, jax.devices())
    if shard != (1, 1) and not errors:
        errors = shard_errors(config)
    if errors:
        raise UserError("\n".join(errors))
    runs = {run: stages_of(config, run, workdir) for run in planned_runs(config)}
    trained, failures, content = set[Run](), list[str](), None
    for number, (run, stages) in enumerate(runs.items(), 1):
        # Several processes of one run may see other shards' files at different times: all train.
        finished = jax.process_count() == 1 and _is_finished(stages)
        if finished or not _is_in_shard(config, run, number, shard):
            continue
        if failure := _train(run, stages, f"run {number} of {len(runs)}", start_time):
            failures.append(failure)
        else:
            trained.add(run)
        start_time = None  # the program's start is not part of what comes next
        content = _write_results(config, runs, trained, workdir)
    if content is None:
        content = _write_results(config, runs, trained, workdir)
    return Comparison(content, failures)


def _train(run: Run, stages: Sequence[Stage], which: str, start_time: float | None) -> str:
    """Trains the stages of a run; names the one that ended early, if one did."""
    for stage in stages:
        where = f"{run.name}, seed {run.seed}, {stage.name}"
        say(f"{which}: {where}")
        try:
            # A row that was extended would not compare with one that was trained at once.
            train(stage.config, stage.workdir, start_time, fixed_length=True)
        except NotFinite as error:
            if jax.process_index() == 0:
                print(f"warning: {where} ended early: {error}", file=sys.stderr)
            return where
        start_time = None
    return ""


def _is_in_shard(config: ConfigDict, run: Run, number: int, shard: tuple[int, int]) -> bool:
    """Whether a shard (k, n) has the run of this number, from 1 on."""
    k, n = shard
    rows = len({name for _, table in config.tables for name, _ in table})
    # Where n divides the rows, a shard would have the same rows of each seed: shift them by one.
    shift = config.seeds.index(run.seed) if rows % max(1, n) == 0 else 0
    return k > 0 and (number + shift) % n == k % n


def _is_finished(stages: Sequence[Stage]) -> bool:
    return all(is_finished(stage.workdir, stage.config) for stage in stages)


def _write_results(
    config: ConfigDict, runs: dict[Run, list[Stage]], trained: set[Run], workdir: epath.Path
) -> dict[str, Any]:
    """Writes the tables of the runs that were trained here, or are finished, and their page."""
    content: dict[str, Any] = {}

    def write() -> None:
        # Or what another shard finishes between the look at the runs and the writing would be lost.
        with locked(workdir, "written", LOCK_TIMEOUT_S) as check_lock:
            done = {r: stages for r, stages in runs.items() if r in trained or _is_finished(stages)}
            _require_metrics(config, list(done.values()))
            measured = {run: _measured(config, stages) for run, stages in done.items()}
            content.update(results(config, measured))
            check_lock()
            write_json(content, workdir / FILE)
            try:
                write_report(workdir)
            except UserError as error:  # no reason to end a sweep: it is drawn again
                print(f"warning: {error}", file=sys.stderr)

    by_first(write)
    return content


def results(config: ConfigDict, measured: dict[Run, dict[str, Any]]) -> dict[str, Any]:
    """The content of `compare.json`, from which the tables and plots are made.

    `rows`: name -> `changes`, and `seeds`: seed of a run that is done -> metric's title -> value
    (None: not evaluated), with `step_seconds`, the median of the first stage's log points;
    `memory_gib`, what its state and its step take on a device; `flops`, of one example in its
    training on average, and `training_flops`, of all of them; and `steps`, what each stage was
    trained for, which a row may change. `tables`: title -> names of rows; costs are relative to the
    first. `metrics`: titles of the columns. `steps`: stage -> steps of training, if a row does not
    change them.
    """
    rows: dict[str, Any] = {}
    for run in planned_runs(config):
        row = rows.setdefault(run.name, {"changes": run.changes, "seeds": {}})
        if run in measured:
            row["seeds"][str(run.seed)] = measured[run]
    return {
        "metrics": [title for title, _, _ in config.metrics],
        "steps": {name: config.stages[name].train.steps for name in stage_order(config)},
        "tables": {title: [name for name, _ in table] for title, table in config.tables if table},
        "rows": rows,
    }


def _require_metrics(config: ConfigDict, runs: Sequence[Sequence[Stage]]) -> None:
    """Raises a UserError if an evaluation was run, and no run has one of the metrics from it."""
    for _, name, path in config.metrics:
        evaluation, _, metric = path.partition("/")
        evaluated = [read_newest(s.workdir) for stages in runs for s in stages if s.name == name]
        metrics = {key for values in evaluated for key in values.get(evaluation, ())} - {"notes"}
        if metrics and metric not in metrics:
            raise UserError(
                f"config.metrics: {path!r}: {evaluation} has {', '.join(sorted(metrics))}"
            )


def _measured(config: ConfigDict, stages: Sequence[Stage]) -> dict[str, Any]:
    """A run's metrics by their titles, its steps, and its step's time, memory and FLOPs."""
    evaluated = {stage.name: read_newest(stage.workdir) for stage in stages}
    values: dict[str, Any] = {}
    for title, name, path in config.metrics:
        evaluation, _, metric = path.partition("/")
        values[title] = evaluated[name].get(evaluation, {}).get(metric)
    logged = [[r for r in read_metrics(s.workdir) if "train/loss" in r] for s in stages]
    records = logged[0]
    last = records[-1] if records else {}
    flops, examples = last.get("train/flops_seen"), last.get("train/examples_seen")
    seconds = [r["train/step_seconds"] for r in records if "train/step_seconds" in r]
    return values | {
        # The first has what comes before the first step, too.
        "step_seconds": statistics.median(seconds[1:] or seconds) if seconds else None,
        "memory_gib": last.get("train/memory_gib"),
        "flops": flops / examples if flops and examples else None,
        "training_flops": flops,
        "steps": {s.name: r[-1]["step"] for s, r in zip(stages, logged, strict=True) if r},
    }
