"""The curves of a run: losses, speed, norms, and metrics from evaluation to evaluation."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from coca_jax.observe.report.charts import Curve, LineChart, line_chart
from coca_jax.observe.report.formats import heading, label
from coca_jax.observe.report.run import Run

GROUPS = {
    "Loss": ["train/loss", "train/contrastive_loss", "train/captioning_loss"],
    "Accuracy within the batch": ["train/contrastive_accuracy", "train/captioning_accuracy"],
    "Learning rate": ["train/learning_rate"],
    "Gradient norm": ["train/grad_norm"],
    "Examples per second": ["train/examples_per_second"],
    "Temperature": ["train/temperature"],
}
LOGARITHMIC = ("loss", "norm")


class CurveCard(NamedTuple):
    """A card of the page: one chart, with the newest value of each of its curves."""

    title: str
    newest: dict[str, float]
    not_finite: int
    """The number of values that cannot be drawn."""
    chart: LineChart


def training_curves(run: Run) -> tuple[list[CurveCard], list[CurveCard]]:
    """The usual training metrics in groups, and every other one on a card of its own."""
    logged = [name for name in run.last if name.startswith("train/")]
    grouped = {name for names in GROUPS.values() for name in names} | {"train/examples_seen"}
    usual = {title: [n for n in names if n in logged] for title, names in GROUPS.items()}
    rest = {heading(label(name)): [name] for name in logged if name not in grouped}
    return tuple(
        [
            _card(title, {label(name): run.curve(name) for name in names}, run.x_label)
            for title, names in groups.items()
            if names
        ]
        for groups in (usual, rest)
    )


def evaluation_curves(run: Run) -> list[CurveCard]:
    """Curves of the evaluations' metrics that changed during the run."""
    names = _unique(name for metrics in run.evaluations.values() for name in metrics)
    return [card for name in names for card in _evaluation_cards(run, name)]


def _evaluation_cards(run: Run, evaluation: str) -> list[CurveCard]:
    """One chart for the shares (0 to 1), and one for each metric on a scale of its own."""
    metrics = _unique(m for all_ in run.evaluations.values() for m in all_.get(evaluation, {}))
    curves = {metric: run.evaluation_curve(evaluation, metric) for metric in metrics}
    moving = {m: c for m, c in curves.items() if len(c[0]) > 1 and len(np.unique(c[1])) > 1}
    shares = {m: c for m, c in moving.items() if 0 <= np.nanmin(c[1]) <= np.nanmax(c[1]) <= 1}
    charts = {label(evaluation): shares} if shares else {}
    for metric in moving.keys() - shares.keys():
        charts[f"{label(evaluation)}: {label(metric)}"] = {metric: moving[metric]}
    return [
        _card(title, {label(metric): curve for metric, curve in lines.items()}, run.x_label)
        for title, lines in sorted(charts.items())
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _card(title: str, curves: dict[str, Curve], x_label: str) -> CurveCard:
    is_log = any(word in title.lower() for word in LOGARITHMIC)
    return CurveCard(
        title,
        newest={name: float(y[-1]) for name, (_, y) in curves.items()},
        not_finite=sum(int((~np.isfinite(y)).sum()) for _, y in curves.values()),
        chart=line_chart(list(curves.values()), x_label, log=is_log),
    )
