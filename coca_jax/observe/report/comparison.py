"""The page, and the printed tables, of a comparison: what `compare.json` in its folder holds."""

import statistics
from collections.abc import Sequence
from typing import Any

from etils import epath

from coca_jax.errors import UserError
from coca_jax.io.stored import Damaged, read_json
from coca_jax.observe.report.charts import dot_chart
from coca_jax.observe.report.stored import are_tables
from coca_jax.observe.report.text import esc, label, page, section

FILE = "compare.json"
COSTS = {"step time": "step_seconds", "step FLOPs": "flops"}  # relative to the first row's


def is_comparison(workdir: epath.Path) -> bool:
    """Whether the folder is a comparison's."""
    return (workdir / FILE).exists()


def comparison_page(workdir: epath.Path) -> str:
    """HTML with a table, and a chart for each metric, of every table of the comparison.

    Raises:
      UserError: `compare.json` is not what a comparison has written.
    """
    try:
        found = read_json(workdir / FILE)
        if not are_tables(found):
            raise Damaged("is not what a comparison writes")
    except Damaged as error:
        raise UserError(f"{workdir / FILE} {error}; `coca compare` writes it anew") from error
    steps = ", then ".join(f"{count:,} steps of {name}" for name, count in found["steps"].items())
    head = (
        f'<header><p class="eyebrow">coca_jax comparison</p><h1>{esc(workdir.name)}</h1>'
        f'<p class="muted">{esc(steps)}</p></header>'
    )
    return page(workdir.name, head + "".join(_table(found, t) for t in found["tables"]))


def format_comparison(found: dict[str, Any]) -> str:
    """Plain text tables: the mean over seeds and, of several, ± their standard deviation."""
    parts = []
    for title, names in found["tables"].items():
        columns = _columns(found, names)
        rows = [[title, *columns]]
        rows += [[name, *(_spread(c[name]) for c in columns.values())] for name in names]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        lines = [
            row[0].ljust(widths[0]) + line[widths[0] :]
            for row, line in zip(rows, lines, strict=True)
        ]
        parts.append("\n".join([lines[0], "─" * len(lines[0]), *lines[1:]]))
    return "\n\n".join(parts)


def _table(found: dict[str, Any], title: str) -> str:
    names = found["tables"][title]
    columns = _columns(found, names)
    head = "".join(f"<th>{label(column)}</th>" for column in columns)
    body = "".join(
        f'<tr><th title="{esc(_changes(found, name))}">{label(name)}</th>'
        + "".join(f"<td>{_spread(column[name])}</td>" for column in columns.values())
        + "</tr>"
        for name in names
    )
    cards = "".join(
        f'<div class="card"><h3>{label(metric)}</h3>'
        f"{dot_chart({name: column[name] for name in names if column[name]})}</div>"
        for metric, column in columns.items()
        if any(column.values())
    )
    counts = [len(found["rows"][name]["seeds"]) for name in names]
    fewest, most = min(counts), max(counts)
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    lead = (
        f"{seeds} seed{'s' * (most > 1)}: mean ± standard deviation; a dot is a seed, a bar their "
        f"mean; — where a row was not trained for it, or has no finite number. Costs of a step are "
        f"relative to {names[0]}'s."
    )
    drawn = f'<div class="scroll"><table class="wide"><tr><th></th>{head}</tr>{body}</table></div>'
    charts = f'<br><div class="grid charts">{cards}</div>'
    return section(label(title).capitalize(), lead, drawn + charts)


def _columns(found: dict[str, Any], names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Metric -> row -> the values that there are, one a seed."""
    seeds = {name: found["rows"][name]["seeds"] for name in names}
    columns = {
        metric: {
            name: [float(row[metric]) for row in seeds[name].values() if row[metric] is not None]
            for name in names
        }
        for metric in found["metrics"]
    }
    first = seeds[names[0]]
    for title, key in COSTS.items():
        columns[title] = {
            name: [
                row[key] / first[s][key]
                for s, row in seeds[name].items()
                if row[key] is not None and s in first and first[s][key]
            ]
            for name in names
        }
    return columns


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "—"
    spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _changes(found: dict[str, Any], name: str) -> str:
    changes = found["rows"][name]["changes"]
    return ", ".join(f"{key}={value}" for key, value in changes) or "no change"
