"""`config.json`: the resolved configuration next to a model's checkpoints."""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax.config.checks import ADDED, BY_NAME, errors
from coca_jax.config.tree import default_config, differences, keys, resumable_keys, to_json
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.paths import as_path, join
from coca_jax.io.stored import Damaged, read_json, shown
from coca_jax.trees import flatten
from coca_jax.versions import versions

NAME = "config.json"
ROOT = pathlib.Path(__file__).parents[2]
MISSING = "is missing"
OTHER_VERSION = "was written by another version of coca_jax"
COMMIT = re.compile(rb"[0-9a-f]{40,64}(-dirty)?")
OF_OTHERS = tuple(f"{section}." for section in (*BY_NAME, *ADDED))  # their keys may be unknown
SHOWN = 3  # differences or errors that are named

# Paths of data: they may change if a fingerprint of the data is kept.
PLACES = tuple(
    f"data.train.{name}"
    for name in (
        "path",
        "class_names",
        "exclude_list",
        "captions_from",
        "fields_from",
        "neighborhoods",
    )
)


def resumable(data_known: bool = True) -> tuple[str, ...]:
    """Keys and sections that may change between attempts of one run.

    Args:
      data_known: whether the data are compared by their fingerprint; else their paths may not
        change.
    """
    return tuple(key for key in resumable_keys() if data_known or key not in PLACES)


def write_config(workdir: str | os.PathLike, config: ConfigDict, **more: str) -> None:
    """Writes `config.json`: the configuration and the versions of packages; atomically.

    Args:
      workdir: the folder; created if it does not exist.
      config: the whole tree.
      **more: further entries, such as where the model comes from.
    """
    record = {
        "config": to_json(config),
        "versions": versions(),
        "commit": _commit(),
    }
    files.write_whole(join(workdir, NAME), json.dumps(record | more, indent=1).encode())


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The configuration in the `config.json` of a run or of a converted model.

    Raises:
      UserError: the folder is not a workdir, or the file is damaged.
    """
    return stored_config(workdir, None, {}, restore=False)


def stored_config(
    workdir: str | os.PathLike,
    step: int | None,
    metadata: Mapping[str, Any],
    restore: bool = True,
) -> ConfigDict:
    """The configuration that a checkpoint was trained with.

    This is `config.json`; or, with a line on standard error, the copy in the checkpoint, whose
    checksum is known, if the file is missing, damaged or different.

    Args:
      workdir: the folder of both.
      step: the checkpoint's.
      metadata: the checkpoint's; a converted model's may have no copy.
      restore: whether to write the copy back to `config.json`.

    Raises:
      UserError: neither of them is a configuration.
    """
    file = join(workdir, NAME)
    stored, why = _read(lambda: read_json(file))
    copy, damage = _read(lambda: metadata) if "config" in metadata else (None, "")
    if damage not in ("", why):
        why = f"{why}; the copy in the checkpoint of step {step} {damage}"
    if copy is None and stored is None:
        if why == MISSING:
            if not as_path(workdir).exists():
                raise UserError(f"{workdir} does not exist")
            raise UserError(f"{workdir} holds no {NAME}; is it the workdir of a run?")
        why += "; no checkpoint has a good copy of it" * (not why.startswith(OTHER_VERSION))
        raise UserError(f"{file} {why}")
    if copy is None:
        return stored
    if stored:
        lines = differences(to_json(stored), to_json(copy), resumable())
        if not lines:
            return stored  # its resumable keys are those of the last attempt
        why = f"differs from how step {step} was trained: {_first(lines)}"
    if jax.process_index() == 0:
        end = _restored(workdir, copy, step) if restore else "is restored"
        print(f"{file} {why}; it {end} from the checkpoint of step {step}", file=sys.stderr)
    return copy


def _read(record: Callable[[], Mapping[str, Any]]) -> tuple[ConfigDict | None, str]:
    """The configuration in a record; or None, and why there is none."""
    try:
        return parse_record(record()), ""
    except FileNotFoundError:
        return None, MISSING
    except Damaged as error:
        return None, str(error)


def _first(lines: Sequence[str], separator: str = "; ") -> str:
    """The first few lines in one, and the number of the others."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return separator.join([*lines[:SHOWN], *more])


def _restored(workdir: str | os.PathLike, config: ConfigDict, step: int | None) -> str:
    try:
        write_config(workdir, config, restored_from=f"checkpoints/{step}")
    except OSError as error:
        return f"cannot be written ({error.strerror or error}), and is read"
    return "is restored"


def parse_record(record: Mapping[str, Any]) -> ConfigDict:
    """The configuration in a record such as `config.json` holds.

    Raises:
      Damaged: it is none, it has keys of another version of coca_jax, or a value is not allowed.
    """
    if not isinstance(tree := record.get("config"), dict):
        raise Damaged(f"holds {shown(tree)} where the configuration should be")
    try:
        config = ConfigDict(with_defaults(tree))
        lines = errors(config, stored=True)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise Damaged(f"is not a configuration: {error}") from error
    if unknown := _unknown_keys(tree):
        raise Damaged(
            f"{OTHER_VERSION}, with keys that this one lacks ({_first(unknown, ', ')}); use that "
            "version, or another folder"
        )
    if lines:
        raise Damaged(f"is not a configuration: {_first(lines)}")
    return config


def _unknown_keys(tree: dict) -> list[str]:
    known = keys()
    return [
        f"config.{key}"
        for key in flatten(tree)
        if key not in known and not f"{key}.".startswith(OF_OTHERS)
        if not any(k.startswith(f"{key}.") for k in known)
    ]


def with_defaults(stored: dict) -> dict:
    """A stored configuration with the defaults of keys that were added since.

    A loss that it lacks was not trained, whatever weight it has by default.
    """
    defaults, losses = to_json(default_config()), stored.get("loss")
    if isinstance(losses, dict):
        for name in defaults["loss"].keys() - losses.keys():
            defaults["loss"][name]["weight"] = 0.0
    return _merged(defaults, stored)


def _merged(defaults: dict, stored: dict) -> dict:
    return defaults | {
        key: _merged(defaults[key], value)
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
        else value
        for key, value in stored.items()
    }


def _commit(root: pathlib.Path = ROOT) -> str | None:
    """The commit of the source tree, marked if files differ from it; None outside a checkout.

    A git that is missing, broken or slow does not stop a run.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (root / ".git").exists():  # an installed package may be within another checkout
        return None
    try:
        done = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    described = COMMIT.fullmatch(done.stdout.strip())
    return described[0].decode() if described else None
