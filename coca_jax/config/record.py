"""`config.json`: the resolved configuration that stands beside a model's checkpoints."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax import __version__
from coca_jax.config.checks import errors
from coca_jax.config.tree import default_config, differences, resumable_keys, to_json
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.paths import join
from coca_jax.io.stored import Damaged, read_json, shown

NAME = "config.json"
COMMIT = re.compile(rb"[0-9a-f]{40,64}(-dirty)?")
SHOWN = 3  # differences or faults that are named
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")

# Where data are; it may change where a fingerprint of them is kept (coca_jax/data/fingerprint.py).
PLACES = ("data.train.path", "data.train.class_names", "data.train.exclude_list")


def resumable(data_known: bool = True) -> tuple[str, ...]:
    """Keys and sections that may change between attempts of one run.

    Args:
      data_known: whether the data are compared by their fingerprint; else their paths may not
        change.
    """
    return tuple(key for key in resumable_keys() if data_known or key not in PLACES)


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
    """The resolved configuration of a run, or of a converted model, as `config.json` has it.

    Raises:
      UserError: the folder is no workdir, or the file is damaged.
    """
    return stored_config(workdir, None, {}, restore=False)


def stored_config(
    workdir: str | os.PathLike,
    step: int | None,
    metadata: Mapping[str, Any],
    restore: bool = True,
) -> ConfigDict:
    """The configuration that a checkpoint was trained with.

    It is that of `config.json`, unless this is missing, damaged, or says otherwise than the copy
    in the checkpoint, whose checksum is known: then it is the copy's, which is said.

    Args:
      workdir: the folder of both.
      step: the checkpoint's.
      metadata: the checkpoint's; a converted model's may have no copy.
      restore: whether to write the copy back to `config.json`.

    Raises:
      UserError: neither of them is a configuration.
    """
    file, there, copy = join(workdir, NAME), None, None
    try:
        there, why = parse_record(read_json(file)), ""
    except FileNotFoundError:
        why = "is missing"
    except Damaged as error:
        why = str(error)
    if "config" in metadata:
        try:
            copy = parse_record(metadata)
        except Damaged as error:
            why = f"{why}; the copy in the checkpoint of step {step} {error}"
    if copy is None and there is None:
        if why == "is missing":
            raise UserError(f"{workdir} holds no {NAME}; is it the workdir of a run?")
        raise UserError(f"{file} {why}; no checkpoint has a good copy of it")
    if copy is None:
        return there
    if there is not None:
        found = differences(to_json(there), to_json(copy), resumable())
        if not found:
            return there  # its free keys are those of the last attempt
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        why = f"says otherwise than step {step} was trained: {'; '.join(found[:SHOWN])}{more}"
    if jax.process_index() == 0:
        end = _restored(workdir, copy, step) if restore else "is restored"
        print(f"{file} {why}; it {end} from the checkpoint of step {step}", file=sys.stderr)
    return copy


def _restored(workdir: str | os.PathLike, config: ConfigDict, step: int | None) -> str:
    try:
        write_config(workdir, config, restored_from=f"checkpoints/{step}")
    except OSError as error:
        return f"cannot be written ({error.strerror or error}), and is taken"
    return "is restored"


def parse_record(record: Mapping[str, Any]) -> ConfigDict:
    """The configuration in a record such as `config.json` holds.

    Raises:
      Damaged: it is none, or not all of its values can be.
    """
    if not isinstance(tree := record.get("config"), dict):
        raise Damaged(f"holds {shown(tree)} where the configuration should be")
    try:
        config = ConfigDict(with_defaults(tree))
        lines = errors(config, stored=True)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise Damaged(f"is no configuration: {error}") from error
    if lines:
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise Damaged(f"is no configuration: {'; '.join(lines[:SHOWN])}{more}")
    return config


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
