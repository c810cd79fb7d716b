"""The report's page: the content of its templates, and the file."""

import dataclasses
import datetime
import functools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
from etils import epath
from markupsafe import Markup

from coca_jax.io.files import write_whole
from coca_jax.io.paths import as_path
from coca_jax.io.visible import visible
from coca_jax.observe.goodput import totals
from coca_jax.observe.report import curves, formats, images, sweep
from coca_jax.observe.report.charts import ConfusionChart, confusion_chart
from coca_jax.observe.report.run import Run, read_run

HEADLINES = [
    "train/contrastive_loss",
    "train/captioning_loss",
    "train/examples_per_second",
    "train/mfu",
    "train/grad_norm",
]
FOLLOWED, STEPS = 4, 8  # images that are followed through training, and steps of each, at most


def write_report(
    workdir: str | os.PathLike, config: Any = None, facts: Mapping[str, str] = MappingProxyType({})
) -> epath.Path:
    """Writes `report.html` into the workdir and returns its path.

    The page is one file that loads nothing. It shows what the run has left so far (see
    `report/run.py`), or the tables of a sweep; it needs neither the model nor JAX.

    Args:
      workdir: the folder.
      config: a copy of the run's configuration, for a `config.json` that is damaged.
      facts: more of them for the page's head.

    Raises:
      UserError: the folder holds nothing of a run.
    """
    workdir = as_path(workdir)
    if sweep.is_sweep(workdir):
        page = render("sweep.html", **sweep.sweep_page(workdir))
    else:
        run = read_run(workdir, config)
        run = dataclasses.replace(run, facts={**facts, **run.facts})
        page = render("run.html", **run_page(run))
    path = workdir / "report.html"
    write_whole(path, page.encode())
    return path


def render(template: str, **content: Any) -> str:
    """A page of one of the templates; all that is put into it is escaped."""
    now = datetime.datetime.now().strftime("%-d %B %Y, %H:%M")
    return _environment().get_template(template).render(now=now, **content)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("coca_jax.observe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        **{
            "label": formats.label,
            "words": formats.words,
            "number": formats.number,
            "duration": formats.duration,
        },
        **{"flat": flat, "word_maps": images.word_maps, "confusion": _confusion},
    }
    environment.globals["image_url"] = images.image_url
    return environment


class Card(NamedTuple):
    """A headline metric and other metrics below it; None is a metric that is undefined."""

    title: str
    metrics: dict[str, float | None]
    notes: dict[str, str]
    """The reasons why metrics are undefined."""


def run_page(run: Run) -> dict[str, Any]:
    """The content of a run's page."""
    training, more_training = curves.training_curves(run)
    config = run.config
    scalars = {k: v for k, v in config.items() if not isinstance(v, dict) or not v}
    return {
        "run": run,
        "steps": config.get("train", {}).get("steps"),
        "cards": _cards(run),
        "evaluated_step": max(run.evaluations, default=None),
        "training": training,
        "more_training": more_training,
        "evaluation": curves.evaluation_curves(run),
        "histories": {name: _histories(by_step) for name, by_step in run.captions.items()},
        "goodput": totals(run.attempts) if run.attempts else None,
        "config": {"general": scalars} | {k: v for k, v in config.items() if k not in scalars},
    }


def _cards(run: Run) -> list[Card]:
    """The newest training metrics, and those of each of the newest evaluations."""
    cards = []
    if "train/loss" in run.last:
        names = ["train/loss", *(name for name in HEADLINES if name in run.last)]
        cards.append(Card("Training", {name: run.last[name] for name in names}, {}))
    step = max(run.evaluations, default=None)
    for name, metrics in run.evaluations.get(step, {}).items():
        notes = run.notes.get(step, {}).get(name, {})
        cards.append(Card(name, metrics | dict.fromkeys(notes), notes))
    return cards


def _confusion(artifacts: dict[str, Any]) -> ConfusionChart:
    return confusion_chart(artifacts["confusion"], artifacts["class_names"])


def _histories(
    by_step: dict[int, dict[str, dict[str, Any]]],
) -> dict[str, dict[int, dict[str, Any]]]:
    """Image -> step -> sample, of some images of the newest step that have more than one."""
    histories = {}
    for image in by_step[max(by_step)]:
        steps = [step for step, samples in by_step.items() if image in samples]
        if len(steps) > 1:
            histories[image] = {s: by_step[s][image] for s in evenly_spaced(steps, STEPS)}
    return {image: histories[image] for image in evenly_spaced(list(histories), FOLLOWED)}


def evenly_spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary's values by the dotted names of their keys."""
    values = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
