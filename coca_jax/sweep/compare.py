"""Comparisons: the same training with something changed, by several seeds, in one table.

A comparison is a configuration of its own (`configs/compare.py`):

- `stages`: name -> experiment. One whose `init.path` is another's name starts from what that one
  has trained, with its tokenizer.
- `tables`: rows (title, rows of (name, changes)), where changes are rows (key, value). A key that
  begins with a stage's name is of that stage, any other of all of them.
- `seeds`; and `metrics`: rows (title, stage, evaluation/metric).
"""

import os
import re
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.config import model_config
from coca_jax.config.checks import key_errors
from coca_jax.config.schema import SweepConfig
from coca_jax.config.tree import flatten, items
from coca_jax.data.tokenizers import tokenizers
from coca_jax.errors import UserError
from coca_jax.evaluate.results import read_newest, write_json
from coca_jax.fields import fields_of, shown
from coca_jax.io.paths import as_path
from coca_jax.observe.report.sweep import FILE
from coca_jax.observe.writers import read_metrics
from coca_jax.planning import training_flops
from coca_jax.train.compile_cache import resolve_cache
from coca_jax.train.loop import train
from coca_jax.train.workdir import is_finished
from coca_jax.validation import validate

KEYS = ("seeds", "stages", "tables", "metrics")

Changes = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """A row of a table, once: what it changes, by one seed."""

    name: str
    seed: int
    changes: Changes


class Stage(NamedTuple):
    """An experiment of a run."""

    name: str
    workdir: epath.Path
    config: ConfigDict


def compare(
    config: ConfigDict,
    workdir: str | os.PathLike,
    start_time: float | None = None,
    part: tuple[int, int] = (1, 1),
) -> dict:
    """Trains and evaluates all that is not trained yet, and writes `compare.json` after each run.

    All rows of one seed come before the next seed, so that a machine's moods spread over them, and
    an unfinished comparison has whole tables. Several processes may share the folder, each with a
    part of its own; each of them writes what all have finished when it looks.

    Args:
      config: the comparison.
      workdir: its folder; each run has `<row>/<seed>/<stage>` in it.
      start_time: `time.time()` when the program did; None: now.
      part: (k, n): only every n-th run, from the k-th on, is trained here; k = 0: none is.

    Returns:
      What is in `compare.json`; see `results`.

    Raises:
      Preempted: a signal asked to stop; the same call goes on.
      UserError: the comparison, or one of its experiments, is wrong.
    """
    workdir = as_path(workdir)
    wrong = mistakes(config, len(jax.devices()))
    if part != (1, 1) and not wrong:
        wrong = [
            f"config.stages.{name}.train.epochs: parts need config.train.steps instead, by which "
            "they know what others have finished"
            for name, stage in config.stages.items()
            if stage.train.epochs
        ]
    if wrong:
        raise UserError("\n".join(wrong))
    runs = {run: stages(config, run, workdir) for run in planned(config)}
    trained, rows = set[Run](), len(runs) // len(config.seeds)
    for number, (run, made) in enumerate(runs.items(), 1):
        # Hosts could see the files of another's run at different times, and part here.
        known = jax.process_count() == 1 and _is_finished(made)
        # Where every part would get the same rows of each seed, they move on with the seeds.
        moved = config.seeds.index(run.seed) if rows % max(1, part[1]) == 0 else 0
        if not _is_in(part, number + moved) or known:
            continue
        for stage in made:
            if jax.process_index() == 0:
                print(f"run {number} of {len(runs)}: {run.name}, seed {run.seed}, {stage.name}")
            train(stage.config, stage.workdir, start_time)
        trained.add(run)
        _collect(config, runs, trained, workdir)
    return _collect(config, runs, trained, workdir)


def _is_in(part: tuple[int, int], number: int) -> bool:
    """Whether the part has the run of this number, from 1 on."""
    first, parts = part
    return first > 0 and number % parts == first % parts


def _is_finished(made: list[Stage]) -> bool:
    return all(is_finished(stage.workdir, stage.config) for stage in made)


def _collect(
    config: ConfigDict, runs: dict[Run, list[Stage]], trained: set[Run], workdir: epath.Path
) -> dict[str, Any]:
    """Writes `compare.json` of what was trained here and of what others have finished."""
    made = {run: made for run, made in runs.items() if run in trained or _is_finished(made)}
    _require_metrics(config, list(made.values()))
    found = results(config, {run: _measured(config, stages) for run, stages in made.items()})
    if jax.process_index() == 0:
        write_json(found, workdir / FILE)
    return found


def planned(config: ConfigDict) -> Iterator[Run]:
    """Every run once, however many tables it is a row of."""
    rows = {name: changes for _, table in config.tables for name, changes in table}
    for seed in config.seeds:
        for name, changes in rows.items():
            yield Run(name, seed, tuple((key, value) for key, value in changes))


def stages(config: ConfigDict, run: Run, workdir: str | os.PathLike) -> list[Stage]:
    """The run's experiments, each after the one that it starts from."""
    workdir = as_path(workdir)
    made: dict[str, Stage] = {}
    for name in _ordered(config):
        changed = ConfigDict(config.stages[name].to_dict())
        changed.seed = run.seed
        if changed.compile_cache == "auto":  # one for all runs: the seed is in no large program
            changed.compile_cache = resolve_cache("auto", workdir / run.name)
        for key, value in run.changes:
            stage, _, rest = key.partition(".")
            if stage in config.stages and stage != name:
                continue
            try:
                changed.update_from_flattened_dict({rest if stage == name else key: value})
            except (TypeError, ValueError) as error:
                raise UserError(f"{run.name}: {key}={value!r}: {error}") from error
        if source := made.get(changed.init.path):
            kind = changed.data.tokenizer.kind
            changed.init.path = str(source.workdir)
            if file_name := tokenizers[kind].file_name:
                changed.data.tokenizer.path = str(source.workdir / file_name)
        made[name] = Stage(name, workdir / run.name / str(run.seed) / name, changed)
    return list(made.values())


def _ordered(config: ConfigDict) -> list[str]:
    """Names of the stages, each behind the one that it starts from."""
    waiting, ordered = list(config.stages), []
    while waiting:
        ready = [name for name in waiting if config.stages[name].init.path not in waiting]
        if not ready:
            raise UserError(f"config.stages: {', '.join(waiting)} start from each other")
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered


def mistakes(config: ConfigDict, devices: int | None = None) -> list[str]:
    """One message for each thing wrong with a comparison; none if all is well."""
    wrong = malformed(config) or list(_wrong_rows(config))
    if wrong:
        return wrong
    for run in planned(config):
        if run.seed == config.seeds[0]:
            for stage in stages(config, run, "."):
                wrong += _wrong_stage(stage, run.name, devices)
    return list(dict.fromkeys(wrong))


def malformed(config: ConfigDict) -> list[str]:
    """One message for each key of a comparison, or of its stages, that is wrong by itself."""
    given = items(config)
    wrong = [
        f"config.{key} is unknown; a comparison has {', '.join(KEYS)}"
        for key in given
        if key not in KEYS
    ]
    wrong += [f"config.{key} is missing from the comparison" for key in KEYS if key not in given]
    wrong += [
        f"config.{key}={shown(given[key])} should be {field.kind.wanted}"
        for key, field in fields_of(SweepConfig).items()
        if key in given and not field.kind.holds(given[key])
    ]
    if not items(given.get("stages")):
        wrong.append(f"config.stages={shown(given.get('stages'))} should be a section of stages")
    for name, stage in items(given.get("stages")).items():
        wrong += [f"{name}: {text}" for text in key_errors(stage).values()]
    return wrong or [*_wrong_metrics(config), *_misshapen(config)]


def _wrong_metrics(config: ConfigDict) -> Iterator[str]:
    for row in config.metrics:
        if row[1] not in config.stages:
            yield f"config.metrics: {row[1]!r} is none of the stages {', '.join(config.stages)}"
        elif row[2].partition("/")[0] not in config.stages[row[1]].eval:
            known = ", ".join(config.stages[row[1]].eval)
            yield f"config.metrics: {row[2]!r} names none of the evaluations {known}"


def _misshapen(config: ConfigDict) -> Iterator[str]:
    for table in config.tables:
        if not _is_pair(table) or not isinstance(table[1], tuple | list):
            yield f"config.tables: {table!r} should be (title, rows)"
            continue
        for row in table[1]:
            if not _is_pair(row):
                yield f"config.tables.{table[0]}: {row!r} should be (name, changes)"
            elif not isinstance(row[1], tuple | list) or not all(map(_is_pair, row[1])):
                yield (
                    f"config.tables.{table[0]}.{row[0]}: {row[1]!r} should be several of (key, "
                    "value); one alone is written ((key, value),)"
                )


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)


def _wrong_rows(config: ConfigDict) -> Iterator[str]:
    keys = set().union(*(flatten(stage.to_dict()) for stage in config.stages.values()))
    seen: dict[str, Any] = {}
    for title, table in config.tables:
        for name, changes in table:
            where = f"config.tables.{title}.{name}"
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                yield f"{where}: a row's name has letters, digits, _ and - only: it names a folder"
            if seen.setdefault(name, changes) != changes:
                yield f"{where}: another table has a row of this name with other changes"
            for key in [key for key, _ in changes]:
                stage, _, rest = key.partition(".")
                if (rest if stage in config.stages else key) not in keys:
                    yield f"{where}: there is no key {key!r}"


def _wrong_stage(stage: Stage, row: str, devices: int | None) -> list[str]:
    try:
        validate(stage.config, devices, reads=("train",))
    except UserError as error:
        return [f"{row}, {stage.name}: {line}" for line in str(error).splitlines()]
    return []


def results(config: ConfigDict, found: dict[Run, dict[str, Any]]) -> dict[str, Any]:
    """What `compare.json` holds: all that the tables and pictures are made of.

    `rows`: name -> `changes`, and `seeds`: seed -> metric's title -> value (None: not trained for
    it), with `step_seconds`, the median of the first stage's log points, and `flops`, of a pair of
    it in training. `tables`: title -> names of rows, the first being what costs are relative to.
    """
    rows: dict[str, Any] = {}
    for run, values in found.items():
        row = rows.setdefault(run.name, {"changes": run.changes})
        row.setdefault("seeds", {})[str(run.seed)] = values
    tables = {title: [name for name, _ in table if name in rows] for title, table in config.tables}
    return {
        "metrics": [title for title, _, _ in config.metrics],
        "steps": {name: config.stages[name].train.steps for name in _ordered(config)},
        "tables": {title: names for title, names in tables.items() if names},
        "rows": rows,
    }


def _require_metrics(config: ConfigDict, made: list[list[Stage]]) -> None:
    """Raises a UserError if an evaluation was done, and by no run has given a metric."""
    for _, stage, path in config.metrics:
        evaluation, _, metric = path.partition("/")
        found = [read_newest(s.workdir) for stages in made for s in stages if s.name == stage]
        there = {name for values in found for name in values.get(evaluation, ())} - {"notes"}
        if there and metric not in there:
            raise UserError(
                f"config.metrics: {path!r}: {evaluation} has {', '.join(sorted(there))}"
            )


def _measured(config: ConfigDict, made: list[Stage]) -> dict[str, Any]:
    evaluated = {stage.name: read_newest(stage.workdir) for stage in made}
    values: dict[str, Any] = {}
    for title, stage, path in config.metrics:
        evaluation, _, metric = path.partition("/")
        values[title] = evaluated[stage].get(evaluation, {}).get(metric)
    records = [r for r in read_metrics(made[0].workdir) if "train/loss" in r]
    logged = [r["train/step_seconds"] for r in records if "train/step_seconds" in r]
    return values | {
        "step_seconds": statistics.median(logged[1:] or logged) if logged else None,
        "flops": training_flops(model_config(made[0].config)),
    }
