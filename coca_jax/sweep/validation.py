"""Validates a sweep, and reports all errors at once before anything is trained."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.checks import key_errors
from coca_jax.config.schema import SweepConfig
from coca_jax.errors import UserError
from coca_jax.fields import fields_of, shown
from coca_jax.io.messages import duplicates
from coca_jax.observe.report.sweep import COSTS
from coca_jax.sweep.runs import Stage, planned_runs, stages_of
from coca_jax.trees import flatten, items
from coca_jax.validation import validate

RESERVED = {"steps", *COSTS, *COSTS.values()}  # beside the metrics in `compare.json` and its tables
KEYS = ("seeds", "stages", "tables", "metrics")


def sweep_errors(config: ConfigDict, devices: int | Sequence[Any] | None = None) -> list[str]:
    """One message for each error of a sweep; none if it is valid.

    Args:
      config: the sweep.
      devices: as `validate` takes them.
    """
    errors = structure_errors(config) or list(_row_errors(config))
    if errors:
        return errors
    for run in planned_runs(config):
        if run.seed == config.seeds[0]:
            for stage in stages_of(config, run, "."):
                errors += _stage_errors(stage, run.name, devices)
    return list(dict.fromkeys(errors))


def structure_errors(config: ConfigDict) -> list[str]:
    """One message for each key of a sweep, or of its stages, that is wrong by itself."""
    given = items(config)
    errors = [
        f"config.{key} is unknown; a sweep has {', '.join(KEYS)}"
        for key in given
        if key not in KEYS
    ]
    errors += [f"config.{key} is missing from the sweep" for key in KEYS if key not in given]
    errors += [
        f"config.{key}={shown(given[key])} should be {field.kind.wanted}"
        for key, field in fields_of(SweepConfig).items()
        if key in given and not field.kind.holds(given[key])
    ]
    if not items(given.get("stages")):
        errors.append(f"config.stages={shown(given.get('stages'))} should be a section of stages")
    for name, stage in items(given.get("stages")).items():
        errors += [f"{name}: {text}" for text in key_errors(stage).values()]
    return errors or [*_metric_errors(config), *_table_errors(config)]


def shard_errors(config: ConfigDict) -> list[str]:
    """One message for each stage that keeps a sweep from being trained in shards."""
    return [
        f"config.stages.{name}.train.epochs: --shard needs config.train.steps instead, from which "
        "each shard knows what the others have finished"
        for name, stage in config.stages.items()
        if stage.train.epochs
    ]


def _metric_errors(config: ConfigDict) -> Iterator[str]:
    yield from _repeated("config.metrics", [title for title, _, _ in config.metrics])
    for title, stage, path in config.metrics:
        if title in RESERVED:
            yield f"config.metrics: {title!r} is the name of something else in the results"
        if stage not in config.stages:
            yield f"config.metrics: {stage!r} is none of the stages {', '.join(config.stages)}"
        elif path.partition("/")[0] not in config.stages[stage].eval:
            evaluations = ", ".join(config.stages[stage].eval)
            yield f"config.metrics: {path!r} names none of the evaluations {evaluations}"


def _repeated(where: str, names: Sequence[str]) -> Iterator[str]:
    if repeated := duplicates(names):
        yield f"{where}: several have the title {', '.join(map(repr, repeated))}"


def _table_errors(config: ConfigDict) -> Iterator[str]:
    yield from _repeated("config.tables", [table[0] for table in config.tables if _is_named(table)])
    for table in config.tables:
        if not _is_named(table) or not isinstance(table[1], tuple | list):
            yield f"config.tables: {table!r} should be (title, rows)"
            continue
        for row in table[1]:
            if not _is_named(row):
                yield f"config.tables.{table[0]}: {row!r} should be (name, changes)"
            elif not isinstance(row[1], tuple | list) or not all(map(_is_named, row[1])):
                yield (
                    f"config.tables.{table[0]}.{row[0]}: {row[1]!r} should be rows of (key, "
                    "value); one alone is written ((key, value),)"
                )


def _is_named(value: Any) -> bool:
    """Whether a value is a pair of a text and something else."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)


def _row_errors(config: ConfigDict) -> Iterator[str]:
    keys = {name: flatten(stage.to_dict()).keys() for name, stage in config.stages.items()}
    changes_of: dict[str, Any] = {}
    for title, table in config.tables:
        for name, changes in table:
            where = f"config.tables.{title}.{name}"
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                yield (
                    f"{where}: the name of a row is that of a folder, and may have letters, "
                    "digits, _ and - only"
                )
            if changes_of.setdefault(name, changes) != changes:
                yield f"{where}: another table has a row of this name with other changes"
            for key, _ in changes:
                yield from (f"{where}: {text}" for text in _missing_key(key, keys))


def _missing_key(key: str, keys: Mapping[str, Container[str]]) -> Iterator[str]:
    """An error of a changed key that stages do not have; `keys`: those of each stage."""
    owner, _, rest = key.partition(".")
    if owner in keys:
        having = [owner] if rest in keys[owner] else []
    else:
        having = [stage for stage, names in keys.items() if key in names]
    if not having:
        yield f"there is no key {key!r}"
    elif owner not in keys and len(having) < len(keys):
        names = " or ".join(f"{stage}.{key}" for stage in having)
        yield f"not all stages have a key {key!r}; write {names}"


def _stage_errors(stage: Stage, row: str, devices: int | Sequence[Any] | None) -> list[str]:
    try:
        validate(stage.config, devices, reads=("train",))
    except UserError as error:
        return [f"{row}, {stage.name}: {line}" for line in str(error).splitlines()]
    return []
