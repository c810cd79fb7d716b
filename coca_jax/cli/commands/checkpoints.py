"""The subcommand that lists the checkpoints of a run."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coca_jax.errors import Incomplete, UserError

if TYPE_CHECKING:
    from etils import epath

    from coca_jax.checkpoints.best import Best
    from coca_jax.checkpoints.listing import Listed

PROBLEMS = 3  # of a step that are printed
Metrics = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""Step -> evaluation -> metric -> value; the first metric is the evaluation's headline."""


def checkpoints(options: argparse.Namespace) -> None:
    """Lists the checkpoints of a run: size, state, metrics, and which are the newest and best."""
    from coca_jax.checkpoints.listing import list_steps
    from coca_jax.checkpoints.metadata import whole_steps
    from coca_jax.evaluate.results import read_step, write_json
    from coca_jax.io.paths import as_path

    workdir = as_path(options.folder)
    steps = list_steps(workdir / "checkpoints", contents=not options.sizes_only)
    if not steps:
        raise UserError(
            f"{workdir / 'checkpoints'} holds no checkpoint; is it the workdir of a run?"
        )
    best = _best_of(workdir)
    valid = [listed.step for listed in steps if listed.state == "valid"]
    whole = whole_steps(workdir / "checkpoints") if best else []
    marks = {"newest": max(valid, default=None), "best": best.step(whole) if best else None}
    metrics = {listed.step: read_step(workdir, listed.step) for listed in steps}
    print(_table(steps, metrics, marks, best.metric if best else ""))
    if options.json:
        rows = [
            {"step": step, "bytes": size, "state": state, "problems": problems}
            | {"metrics": metrics[step]}
            for step, size, state, problems in steps
        ]
        content = {"keep_best": best.metric if best else None, **marks, "steps": rows}
        write_json(content, options.json)
    damaged = [listed for listed in steps if listed.state == "damaged"]
    if damaged:
        raise Incomplete(f"{len(damaged)} of {len(steps)} checkpoints are damaged")


def _best_of(workdir: "epath.Path") -> "Best | None":
    """How the run chooses its best checkpoint; None: it keeps none, or nothing here can say."""
    from coca_jax.checkpoints.best import Best
    from coca_jax.checkpoints.metadata import newest
    from coca_jax.config.record import stored_config

    saved = newest(workdir / "checkpoints")
    try:
        return saved and Best.of(workdir, stored_config(workdir, *saved, restore=False))
    except UserError as error:  # such as of another version of coca_jax
        print(f"warning: no step is named the best: {error}", file=sys.stderr)
        return None


def _table(
    steps: Sequence["Listed"], metrics: Metrics, marks: Mapping[str, int | None], metric: str
) -> str:
    """A line for each step, with a column for each evaluation's headline; below it the problems."""
    columns = list(dict.fromkeys([*filter(None, [metric]), *_headlines(metrics)]))
    rows = [["step", "size", "state", "", *columns]]
    for listed in steps:
        names = ", ".join(name for name, step in marks.items() if step == listed.step)
        values = [_shown(metrics[listed.step], column) for column in columns]
        size = f"{listed.size / 2**20:,.1f} MiB"
        rows.append([str(listed.step), size, listed.state, names, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.rjust, str.rjust, str.ljust, str.ljust, *[str.rjust] * len(columns)]
    lines = [
        "  ".join(pad(cell, width) for pad, cell, width in zip(align, row, widths, strict=True))
        for row in rows
    ]
    for listed in steps:
        more = len(listed.problems) - PROBLEMS
        lines += [f"step {listed.step}: {problem}" for problem in listed.problems[:PROBLEMS]]
        lines += [f"step {listed.step}: and {more} more"] * (more > 0)
    return "\n".join(line.rstrip() for line in lines)


def _headlines(metrics: Metrics) -> list[str]:
    """The first metric of each evaluation, as evaluation/metric."""
    names = {name: list(values) for of_step in metrics.values() for name, values in of_step.items()}
    return [f"{name}/{next(iter(values))}" for name, values in names.items() if values]


def _shown(metrics: Mapping[str, Mapping[str, Any]], column: str) -> str:
    evaluation, _, metric = column.partition("/")
    value = metrics.get(evaluation, {}).get(metric)
    return "-" if value is None else f"{value:.4f}"
