"""MLflow (extra `mlflow`)."""

import base64
import contextlib
import dataclasses
import html
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from coca_jax.fields import Kind, field, row, several, text
from coca_jax.io.paths import as_path
from coca_jax.observe.writers.passwords import has_password
from coca_jax.observe.writers.record import configuration, group_of, run_id
from coca_jax.observe.writers.samples import Sample
from coca_jax.trees import flatten

ANSWER_SECONDS = 10.0
ID_TAG = "coca_jax.run_id"
_NAME = re.compile(r"[^\w\-./ ]", re.ASCII)  # what MLflow takes in no name
_BATCH, _LONGEST = 100, 6000  # parameters in one call, and characters of one


def _tracking_uri() -> Kind:
    """A URI in which there is no password, since the configuration is stored."""
    kind = text()
    wanted = (
        "a URI without user and password, which MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD are for, or MLFLOW_TRACKING_URI for a database's"
    )
    return Kind(wanted, (str,), lambda v: kind.holds(v) and not has_password(v))


@dataclasses.dataclass(frozen=True)
class MlflowOptions:
    """MLflow; where empty, its MLFLOW_... variables count."""

    tracking_uri: str = field(
        "",
        "Server, database or folder: http://HOST:5000, sqlite:////PATH/mlflow.db, ...; empty: "
        "MLFLOW_TRACKING_URI, or mlflow.db in the current folder.",
        _tracking_uri(),
        resumable=True,
    )
    experiment_name: str = field(
        "", "Experiment of the run; it is made if missing.", text(), resumable=True
    )
    run_name: str = field("", "Name of the run; empty: the workdir's.", text(), resumable=True)
    description: str = field("", "Description of the run.", text(), resumable=True)
    tags: tuple[tuple[str, str], ...] = field(
        (),
        "Tags of the run, rows (name, value).",
        several(row(text(empty=False), text()), wanted="rows (name, value)"),
        resumable=True,
    )


class MlflowWriter:
    """A run that has the workdir's id as a tag, so that a resumed run goes on in it.

    MLflow keeps every value that it is sent. What a run trains again after a kill is not sent,
    therefore, up to the last step that MLflow has.
    """

    options = MlflowOptions
    takes_backlog = True

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None, options: MlflowOptions):
        """Starts or resumes the run."""
        from mlflow import MlflowClient, get_tracking_uri

        uri = options.tracking_uri or get_tracking_uri()
        _require_answer(uri)
        self._client, self._in_folder = MlflowClient(uri), _is_folder(uri)
        run = self._find_or_create(workdir, options)
        self._id = run.info.run_id
        self._client.update_run(self._id, "RUNNING")
        self._before: dict[str, int] = {}
        for metric in run.data.to_proto().metrics:  # the newest of each, with its step
            group = group_of(metric.key)
            self._before[group] = max(metric.step, self._before.get(group, -1))
        self._log_configuration(workdir, run.data.params)
        where = f"run {self._id} of experiment {run.info.experiment_id}"
        print(f"mlflow: {where}", file=sys.stderr)

    def _find_or_create(self, workdir: str | os.PathLike, options: MlflowOptions) -> Any:
        name = options.experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "coca_jax"
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        own = run_id(workdir)
        if runs := self._client.search_runs([number], f"tags.`{ID_TAG}` = '{own}'"):
            return runs[0]
        tags = dict(options.tags) | {ID_TAG: own}
        if options.description:
            tags["mlflow.note.content"] = options.description
        run_name = options.run_name or as_path(workdir).name
        return self._client.create_run(number, tags=tags, run_name=run_name)

    def _log_configuration(self, workdir: str | os.PathLike, logged: Mapping[str, str]) -> None:
        """Logs the parameters that are new, which can never change, and the file as it is now."""
        from mlflow.entities import Param

        stored = configuration(workdir)
        values = {_named(k): str(v)[:_LONGEST] for k, v in flatten(stored.values).items()}
        params = [Param(name, value) for name, value in values.items() if name not in logged]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self._id, params=params[start : start + _BATCH])
        if stored.record:
            self._client.log_dict(self._id, stored.record, "config.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars, but for those that an earlier attempt has written."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(self._metric(name), value, now, step)
            for name, value in values.items()
            if step > self._before.get(group_of(_named(name)), -1)
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)

    def _metric(self, name: str) -> str:
        """The name of a metric. In a folder it is a file's, and none can be a folder as well."""
        if not self._in_folder:
            return _named(name)
        words = _named(name).split("/", 2 if name.startswith("eval/") else 1)
        return "/".join([*words[:-1], words[-1].replace("/", ".")])

    def write_samples(self, step: int, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Writes images by step, and a page of them with their texts."""
        for name, group in samples.items():
            name = _named(name)
            if step <= self._before.get(group_of(name), -1):
                continue
            for number, sample in enumerate(group):
                key = f"{name}/{number:02}"
                self._client.log_image(self._id, sample.pixels(), key=key, step=step)
            self._client.log_text(self._id, _page(group), f"{name}/{step:08}.html")

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id)


def _is_folder(uri: str) -> bool:
    return uri.startswith("file:") or (":" not in uri and not uri.startswith("databricks"))


def _require_answer(uri: str) -> None:
    """Raises what `requests` does if a server does not answer; MLflow would try for minutes."""
    if uri.startswith(("http://", "https://")):
        with contextlib.suppress(requests.exceptions.SSLError):  # MLflow has options for it
            requests.head(uri, timeout=ANSWER_SECONDS)


def _named(name: str) -> str:
    """A name that MLflow takes."""
    return _NAME.sub("_", name)[:250]


def _page(samples: Sequence[Sample]) -> str:
    """A page that shows images with their texts."""
    figures = (
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(sample.image).decode()}">'
        f"<figcaption>{html.escape(sample.text)}</figcaption></figure>"
        for sample in samples
    )
    style = "figcaption{white-space:pre-line;font-family:sans-serif}"
    return f'<!DOCTYPE html><meta charset="utf-8"><style>{style}</style>{"".join(figures)}'
