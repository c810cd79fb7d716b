"""What the trackers say of a run, next to its metrics: its configuration and its id."""

import json
import os
import threading
import uuid
from typing import Any, NamedTuple

from coca_jax.io.files import write_whole
from coca_jax.io.paths import as_path
from coca_jax.io.stored import Damaged, read_json
from coca_jax.observe.writers.jsonl import read_metrics

ID_FILE = "tracker.json"
_ONE_AT_A_TIME = threading.Lock()  # each tracker asks for the id in a thread of its own


class Configuration(NamedTuple):
    """The `config.json` of a run."""

    tree: dict[str, Any]
    """The resolved configuration; empty if there is none."""
    record: dict[str, Any]
    """The whole file: versions and commit, too."""

    @property
    def text(self) -> str:
        """The file as text; empty if there is none."""
        return json.dumps(self.record, indent=1) if self.record else ""

    @property
    def values(self) -> dict[str, Any]:
        """The configuration and, next to its sections, versions and commit."""
        return self.tree | {key: value for key, value in self.record.items() if key != "config"}


def configuration(workdir: str | os.PathLike) -> Configuration:
    """The configuration of a run, as its workdir holds it."""
    try:
        record = read_json(as_path(workdir) / "config.json")
    except (FileNotFoundError, Damaged):
        return Configuration({}, {})
    tree = record.get("config")
    return Configuration(tree if isinstance(tree, dict) else {}, record)


def run_id(workdir: str | os.PathLike) -> str:
    """The id by which trackers know a run: it is made once, and kept in the workdir."""
    path = as_path(workdir) / ID_FILE
    with _ONE_AT_A_TIME:
        try:
            stored = read_json(path).get("id")
        except (FileNotFoundError, Damaged):
            stored = None
        if isinstance(stored, str) and stored.isalnum():
            return stored
        new = uuid.uuid4().hex[:16]
        write_whole(path, json.dumps({"id": new}).encode())
        return new


def recorded(
    workdir: str | os.PathLike, resume_step: int | None
) -> list[tuple[int, dict[str, float]]]:
    """The metrics in metrics.jsonl up to a step, for a tracker that may lack the last of them."""
    records = read_metrics(workdir) if resume_step else []
    points = [(record.pop("step"), record) for record in records]
    return [(step, values) for step, values in points if step <= resume_step]


def group_of(name: str) -> str:
    """Those of one group are written together: `eval/<evaluation>`, or `train` for all others."""
    words = name.split("/")
    return "/".join(words[:2]) if words[0] == "eval" and len(words) > 2 else "train"
