"""The page, and the printed tables, of a sweep: the content of its `compare.json`."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.stored import Damaged, fits, is_step, read_json
from coca_jax.observe.report.charts import DotChart, dot_chart
from coca_jax.observe.report.formats import heading, words

FILE = "compare.json"
COSTS = {  # relative to the first row's
    "step time": "step_seconds",
    "memory": "memory_gib",
    "step FLOPs": "flops",
    "training FLOPs": "training_flops",
}

Columns = dict[str, dict[str, list[float]]]
"""Metric -> row -> its values, one for each seed that has one."""


class Table(NamedTuple):
    """A table of the page, and its charts."""

    title: str
    seeds: str
    """The number of seeds or runs per row, such as `1 to 3 seeds`."""
    columns: list[str]
    rows: dict[str, list[str]]
    """Row -> a cell for each column."""
    changes: dict[str, str]
    charts: dict[str, DotChart]


def is_sweep(workdir: epath.Path) -> bool:
    """Whether the folder is a sweep's."""
    return (workdir / FILE).exists()


def sweep_page(workdir: epath.Path) -> dict[str, Any]:
    """The content of the sweep's page: its name, the steps of its stages, and its tables.

    Raises:
      UserError: `compare.json` is not what a sweep has written.
    """
    try:
        results = read_json(workdir / FILE)
        if not are_results(results):
            raise Damaged("is not what a comparison writes")
    except Damaged as error:
        raise UserError(f"{workdir / FILE} {error}; `coca compare` writes it anew") from error
    tables = [_table(results, title, names) for title, names in results["tables"].items()]
    return {"name": workdir.name, "steps": _steps(results), "tables": tables}


def _steps(results: dict[str, Any]) -> dict[str, str]:
    """Stage -> its steps; from the fewest to the most, where rows differ."""
    runs = [run for row in results["rows"].values() for run in row["seeds"].values()]
    texts = {}
    for stage, count in results["steps"].items():
        counts = {run.get("steps", {}).get(stage, count) for run in runs} or {count}
        texts[stage] = " to ".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))
    return texts


def format_sweep(results: dict[str, Any]) -> str:
    """Plain text tables: the mean over seeds and, if there is more than one, ± their deviation."""
    blocks = []
    for title, names in results["tables"].items():
        columns = _columns(results, names)
        rows = [[title, *columns]]
        rows += [[name, *(_mean(c[name]) for c in columns.values())] for name in names]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        blocks.append("\n".join([lines[0], "─" * len(lines[0]), *lines[1:]]))
    return "\n\n".join(blocks)


def are_results(content: Any) -> bool:
    """Whether this is what a sweep has written."""
    shape = {"steps": dict, "tables": dict, "rows": dict, "metrics": [str]}
    if not fits(content, shape) or not fits([*content["steps"].values()], [is_step]):
        return False
    rows, tables = content["rows"], [*content["tables"].values()]
    if not fits(tables, [[str]]) or not fits([*rows.values()], [{"seeds": dict, "changes": list}]):
        return False
    if any(not names or not set(names) <= rows.keys() for names in tables):
        return False
    values = {name: (float, None) for name in content["metrics"]}
    values |= {"step_seconds": (float, None), "memory_gib?": (float, None)}
    values |= {"flops": (float, None), "training_flops?": (float, None)}
    values |= {"steps?": lambda steps: fits(steps, dict) and fits([*steps.values()], [is_step])}
    runs = [run for row in rows.values() for run in row["seeds"].values()]
    pairs = [change for row in rows.values() for change in row["changes"]]
    return fits(runs, [values]) and all(fits(pair, list) and len(pair) == 2 for pair in pairs)


def _table(results: dict[str, Any], title: str, names: Sequence[str]) -> Table:
    columns = _columns(results, names)
    counts = [len(results["rows"][name]["seeds"]) for name in names]
    fewest, most = min(counts), max(counts)
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return Table(
        title=heading(words(title)),
        seeds=f"{count} seed{'s' * (most != 1)}",
        columns=list(columns),
        rows={name: [_mean(column[name]) for column in columns.values()] for name in names},
        changes={name: _changes(results["rows"][name]["changes"]) for name in names},
        charts={
            metric: dot_chart({name: column[name] for name in names if column[name]})
            for metric, column in columns.items()
            if any(column.values())
        },
    )


def _columns(results: dict[str, Any], names: Sequence[str]) -> Columns:
    seeds = {name: results["rows"][name]["seeds"] for name in names}
    columns = {
        metric: {
            name: [float(row[metric]) for row in seeds[name].values() if row[metric] is not None]
            for name in names
        }
        for metric in results["metrics"]
    }
    first = seeds[names[0]]
    for title, key in COSTS.items():
        columns[title] = {
            name: [
                row[key] / first[s][key]
                for s, row in seeds[name].items()
                if row.get(key) is not None and s in first and first[s].get(key)
            ]
            for name in names
        }
    return columns


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "—"
    spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _changes(changes: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in changes) or "no change"
