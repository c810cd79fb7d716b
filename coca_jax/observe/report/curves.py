"""The report's curves: losses, speed, norms, and how evaluations went."""

import numpy as np

from coca_jax.io.messages import counted
from coca_jax.observe.report.charts import COLOURS, line_chart
from coca_jax.observe.report.run import Curve, Run
from coca_jax.observe.report.text import esc, label, number, section

GROUPS = {
    "Loss": ["train/loss", "train/contrastive_loss", "train/captioning_loss"],
    "Accuracy within the batch": ["train/contrastive_accuracy", "train/captioning_accuracy"],
    "Learning rate": ["train/learning_rate"],
    "Gradient norm": ["train/grad_norm"],
    "Examples per second": ["train/examples_per_second"],
    "Temperature": ["train/temperature"],
}
LOGARITHMIC = ("loss", "norm")


def training_curves(run: Run) -> str:
    """Draws every `train/` metric: the usual ones in groups, the others folded away."""
    logged = [name for name in run.last if name.startswith("train/")]
    if not logged:
        return section("Training", "Nothing has been logged yet.", "")
    main = {
        title: [name for name in names if name in logged]
        for title, names in GROUPS.items()
        if any(name in logged for name in names)
    }
    shown = {"train/examples_seen", *(name for names in GROUPS.values() for name in names)}
    others = {label(name).capitalize(): [name] for name in logged if name not in shown}
    body = _charts(run, main)
    if others:
        summary = f"<summary>More curves ({len(others)})</summary>"
        body += f"<details>{summary}{_charts(run, others)}</details>"
    lead = "Where there are many points, a line is the mean of neighbours and the band their range."
    return section("Training", lead, body)


def _charts(run: Run, groups: dict[str, list[str]]) -> str:
    cards = [
        _chart(title, {label(name): run.curve(name) for name in names}, run.x_label)
        for title, names in groups.items()
    ]
    return f'<div class="grid charts">{"".join(cards)}</div>'


def evaluation_curves(run: Run) -> str:
    """Draws how metrics moved from evaluation to evaluation; nothing if there was but one."""
    names = list(dict.fromkeys(name for found in run.evaluations.values() for name in found))
    cards = [card for name in names for card in _evaluation_cards(run, name)]
    if not cards:
        return ""
    lead = f"At {len(run.evaluations)} points of training; constant metrics are left out."
    return section("Evaluation over time", lead, f'<div class="grid charts">{"".join(cards)}</div>')


def _evaluation_cards(run: Run, evaluation: str) -> list[str]:
    """One chart for the shares (0 to 1), and one for each metric on a scale of its own."""
    metrics = list(
        dict.fromkeys(m for found in run.evaluations.values() for m in found.get(evaluation, {}))
    )
    curves = {metric: run.evaluation_curve(evaluation, metric) for metric in metrics}
    moving = {m: c for m, c in curves.items() if len(c[0]) > 1 and len(np.unique(c[1])) > 1}
    shares = {m: c for m, c in moving.items() if 0 <= np.nanmin(c[1]) <= np.nanmax(c[1]) <= 1}
    titled = {label(evaluation): shares} if shares else {}
    for metric in moving.keys() - shares.keys():
        titled[f"{label(evaluation)}: {label(metric)}"] = {metric: moving[metric]}
    return [
        _chart(title, {label(m): c for m, c in lines.items()}, run.x_label)
        for title, lines in sorted(titled.items())
    ]


def _chart(title: str, curves: dict[str, Curve], x_label: str) -> str:
    """Returns a card: title, legend with the newest values, and the drawing."""
    legend = "".join(
        f'<span><i style="background:var(--line-{i % COLOURS})"></i>{name} '
        f"<b>{number(curve[1][-1])}</b></span>"
        for i, (name, curve) in enumerate(curves.items())
    )
    broken = sum(int((~np.isfinite(y)).sum()) for _, y in curves.values())
    values = counted(broken, "values")
    warning = f'<p class="warning">Not finite: {values}</p>' if broken else ""
    drawing = line_chart(
        list(curves.values()), x_label, log=any(word in title.lower() for word in LOGARITHMIC)
    )
    return (
        f'<div class="card"><h3>{esc(title)}</h3><div class="legend">{legend}</div>'
        f"{warning}{drawing}</div>"
    )
