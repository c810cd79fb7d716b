"""The runs that a sweep consists of, and the experiments of each run.

A sweep is a configuration of its own (`configs/compare.py`):

- `stages`: name -> experiment. A stage whose `init.path` is the name of another stage starts from
  the weights which that one has trained, with its tokenizer.
- `tables`: rows (title, rows of (name, changes)), where changes are rows (key, value). A key that
  begins with a stage's name is of that stage, any other key is of every stage.
- `seeds`: every row is trained with each of them.
- `metrics`: rows (title, stage, evaluation/metric), the columns of the tables.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from coca_jax.data.tokenizers import tokenizers
from coca_jax.errors import UserError
from coca_jax.io.paths import as_path
from coca_jax.train.compile_cache import resolve_cache

Changes = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """A row of the tables, trained with one seed."""

    name: str
    seed: int
    changes: Changes


class Stage(NamedTuple):
    """One experiment of a run."""

    name: str
    workdir: epath.Path
    config: ConfigDict


def planned_runs(config: ConfigDict) -> Iterator[Run]:
    """Every run once, however many tables its row is in; all rows of a seed before the next."""
    rows = {name: changes for _, table in config.tables for name, changes in table}
    for seed in config.seeds:
        for name, changes in rows.items():
            yield Run(name, seed, tuple((key, value) for key, value in changes))


def stages_of(config: ConfigDict, run: Run, workdir: str | os.PathLike) -> list[Stage]:
    """The experiments of a run, each after the one whose weights it starts from.

    Args:
      config: the sweep.
      run: one of its runs.
      workdir: the sweep's folder, which has `<row>/<seed>/<stage>` in it.

    Raises:
      UserError: a change is of a type that its key does not take, or stages start from each other.
    """
    workdir = as_path(workdir)
    stages: dict[str, Stage] = {}
    for name in stage_order(config):
        stage = _changed(config, run, name)
        # One for all seeds: a step without dropout or other random values does not depend on them.
        if stage.compile_cache == "auto":
            stage.compile_cache = resolve_cache("auto", workdir / run.name)
        if source := stages.get(stage.init.path):
            kind = stage.data.tokenizer.kind
            stage.init.path = str(source.workdir)
            if file_name := tokenizers[kind].file_name:
                stage.data.tokenizer.path = str(source.workdir / file_name)
        stages[name] = Stage(name, workdir / run.name / str(run.seed) / name, stage)
    return list(stages.values())


def _changed(config: ConfigDict, run: Run, name: str) -> ConfigDict:
    """A copy of a stage's configuration, with the run's seed and changes."""
    stage = ConfigDict(config.stages[name].to_dict())
    stage.seed = run.seed
    for key, value in run.changes:
        owner, _, rest = key.partition(".")
        if owner in config.stages and owner != name:
            continue
        try:
            stage.update_from_flattened_dict({rest if owner == name else key: value})
        except (TypeError, ValueError) as error:
            raise UserError(f"{run.name}: {key}={value!r}: {error}") from error
    return stage


def stage_order(config: ConfigDict) -> list[str]:
    """Names of the stages, each after the one that it starts from.

    Raises:
      UserError: stages start from each other.
    """
    waiting, ordered = list(config.stages), []
    while waiting:
        ready = [name for name in waiting if config.stages[name].init.path not in waiting]
        if not ready:
            raise UserError(f"config.stages: {', '.join(waiting)} start from each other")
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered
