"""`config.json`: the resolved configuration that stands beside a model's checkpoints."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess

from ml_collections import ConfigDict

from coca_jax import __version__
from coca_jax.config.default import default_config
from coca_jax.config.loading import to_json
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.paths import join

NAME = "config.json"
COMMIT = re.compile(rb"[0-9a-f]{40,64}(-dirty)?")
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")


def write_config(workdir: str | os.PathLike, config: ConfigDict, **more: str) -> None:
    """Writes the configuration, with the versions of what it ran on; whole or not at all.

    Args:
      workdir: the folder; made if it is not there.
      config: the whole tree.
      **more: further things worth knowing of where the model is from.
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    record = {
        "config": to_json(config),
        "versions": {"coca_jax": __version__} | versions,
        "commit": _commit(),
    }
    files.write_whole(join(workdir, NAME), json.dumps(record | more, indent=1).encode())


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The resolved configuration of a run, or of a converted model.

    Raises:
      UserError: the folder is no workdir.
    """
    try:
        record = json.loads(files.read_bytes(join(workdir, NAME)))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir} holds no {NAME}; is it the workdir of a run?") from error
    return ConfigDict(with_defaults(record["config"]))


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
    """The commit of the source tree, marked if files differ from it; None outside a checkout.

    Whatever stands in for git, or is wrong with it, does not stop a run.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    source = pathlib.Path(__file__).parent
    try:
        found = subprocess.run(
            command, cwd=source, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    described = COMMIT.fullmatch(found.stdout.strip())
    return described[0].decode() if described else None
