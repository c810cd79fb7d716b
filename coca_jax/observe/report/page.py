"""The report's page: its head, its headline numbers, its sections and the configuration."""

import os
from typing import Any

from etils import epath

from coca_jax.io.files import write_whole
from coca_jax.io.paths import as_path
from coca_jax.observe.report.comparison import comparison_page, is_comparison
from coca_jax.observe.report.curves import evaluation_curves, training_curves
from coca_jax.observe.report.pictures import pictures
from coca_jax.observe.report.run import Run, read_run
from coca_jax.observe.report.text import esc, label, number, page, section, table
from coca_jax.observe.report.time import wall_time

HEADLINES = [
    "train/contrastive_loss",
    "train/captioning_loss",
    "train/examples_per_second",
    "train/mfu",
    "train/grad_norm",
]


def write_report(workdir: str | os.PathLike, config: Any = None) -> epath.Path:
    """Writes `report.html` into the workdir and returns its path.

    The page needs nothing but itself. It reads what the run has left (see `report/run.py`), be it
    unfinished or not evaluated yet, or the comparison; it needs neither the model nor JAX.

    Args:
      workdir: the folder.
      config: a copy of the run's configuration, for a `config.json` that is damaged.

    Raises:
      UserError: the folder holds nothing of a run.
    """
    workdir = as_path(workdir)
    compared = is_comparison(workdir)
    written = comparison_page(workdir) if compared else _run_page(read_run(workdir, config))
    path = workdir / "report.html"
    write_whole(path, written.encode())
    return path


def _run_page(run: Run) -> str:
    body = "".join(
        part(run)
        for part in (
            _head,
            _numbers,
            training_curves,
            evaluation_curves,
            pictures,
            wall_time,
            _configuration,
        )
    )
    return page(run.name, body)


def _head(run: Run) -> str:
    step, steps = run.last.get("step", 0), run.config.get("train", {}).get("steps")
    seen = run.last.get("train/examples_seen")
    come = [f"Step {step:,}" + (f" of {steps:,}" if steps else "")]
    come += [f"{seen:,.0f} examples seen"] if seen else []
    share = min(1, step / steps) if steps else 1
    facts = "".join(
        f"<div><dt>{label(key)}</dt><dd>{_fact(value)}</dd></div>"
        for key, value in run.facts.items()
        if value is not None
    )
    return (
        f'<header><p class="eyebrow">coca_jax run</p><h1>{esc(run.name)}</h1>'
        f'<p class="muted">{" · ".join(come)}</p>'
        f'<div class="track"><i style="width:{share:.1%}"></i></div>'
        f'<dl class="facts">{facts}</dl></header>'
    )


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return " · ".join(f"{esc(key)} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return esc(value)


def _numbers(run: Run) -> str:
    cards = []
    if "train/loss" in run.last:
        rows = {name: run.last[name] for name in HEADLINES if name in run.last}
        cards.append(_card("Training", "loss", run.last["train/loss"], rows))
    step, newest = next(reversed(run.evaluations.items()), (None, {}))
    for name, metrics in newest.items():
        notes = run.notes.get(step, {}).get(name, {})
        (first, value), *others = [*metrics.items(), *dict.fromkeys(notes).items()]
        cards.append(_card(name, first, value, dict(others), notes))
    if step is None:
        lead = "No evaluation has been made yet."
    else:
        lead = f"The last logged step, and the evaluations at step {step:,}."
    return section("Results", lead, f'<div class="grid cards">{"".join(cards)}</div>')


def _card(
    title: str,
    name: str,
    value: float | None,
    rows: dict[str, float | None],
    notes: dict[str, str] | None = None,
) -> str:
    """A headline and rows below it; None: the metric is undefined, for which there is a note."""
    listed = table({label(key): _value(item) for key, item in rows.items()})
    below = "".join(
        f'<p class="muted">{label(key)} is undefined: {esc(reason)}</p>'
        for key, reason in (notes or {}).items()
    )
    return (
        f'<div class="card"><h3>{label(title)}</h3><div class="big">{_value(value)}</div>'
        f'<div class="label">{label(name)}</div>{listed if rows else ""}{below}</div>'
    )


def _value(value: float | None) -> str:
    return "–" if value is None else number(value)


def _configuration(run: Run) -> str:
    if not run.config:
        return ""
    scalars = {k: v for k, v in run.config.items() if not isinstance(v, dict) or not v}
    groups = {"": scalars} | {k: v for k, v in run.config.items() if k not in scalars}
    cards = "".join(
        f'<div class="card"><h3>{esc(title) or "general"}</h3>'
        f"{table({esc(k): esc(v) for k, v in _flat(group).items()})}</div>"
        for title, group in groups.items()
        if group
    )
    body = f'<details><summary>Show</summary><div class="grid config">{cards}</div></details>'
    return section("Configuration", "As resolved when the run began.", body)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
