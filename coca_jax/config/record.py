"""`config.json`: the resolved configuration that stands beside a model's checkpoints."""

import importlib.metadata
import json
import pathlib
import subprocess

from ml_collections import ConfigDict

from coca_jax import __version__
from coca_jax.config.default import default_config
from coca_jax.config.loading import to_json
from coca_jax.errors import UserError

NAME = "config.json"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")


def write_config(workdir: pathlib.Path, config: ConfigDict, **more: str) -> None:
    """Writes the configuration, with the versions of what it ran on; whole or not at all.

    Args:
      workdir: the folder; made if it is not there.
      config: the whole tree.
      **more: further things worth knowing of where the model is from.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    record = {
        "config": to_json(config),
        "versions": {"coca_jax": __version__} | versions,
        "commit": _commit(),
    }
    partial = (workdir / NAME).with_suffix(".partial")
    partial.write_text(json.dumps(record | more, indent=1))
    partial.replace(workdir / NAME)


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The resolved configuration of a run, or of a converted model.

    Raises:
      UserError: the folder is no workdir.
    """
    file = workdir / NAME
    if not file.is_file():
        raise UserError(f"{workdir} holds no {NAME}; is it the workdir of a run?")
    return ConfigDict(with_defaults(json.loads(file.read_text())["config"]))


def with_defaults(stored: dict) -> dict:
    """A stored configuration with the keys that there have been since, as they were implied."""
    return _merged(to_json(default_config()), stored)


def _merged(defaults: dict, stored: dict) -> dict:
    return defaults | {
        key: _merged(defaults[key], value)
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
        else value
        for key, value in stored.items()
    }


def _commit() -> str | None:
    """The commit of the source tree, marked if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    source = pathlib.Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
