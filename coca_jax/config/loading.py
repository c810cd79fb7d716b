"""Reading configuration files, overrides from the command line, and comparing two trees."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from coca_jax.config.keys import kind_of, optional_keys
from coca_jax.config.python_file import run_file
from coca_jax.errors import UserError
from coca_jax.fields import near, read, shown
from coca_jax.io.files import read_lines

OVERRIDE = "--config."
_OF_A_SOURCE = re.compile(r"^data\.sources\.[^.]+\.")


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config` of a Python file and applies overrides.

    Args:
      spec: `FILE` or `FILE:argument`; the longest beginning that is a file is the file.
      overrides: as on the command line, `--config.optimizer.learning_rate=3e-4`.

    Raises:
      UserError: the file cannot be used, or keys or values are wrong; all of them at once.
    """
    config = run_file(spec)
    problems = [problem for override in overrides if (problem := _apply(config, override))]
    if problems:
        raise UserError("\n".join(problems))
    _name_classes(config)
    return config


def _name_classes(config: ConfigDict) -> None:
    """Puts the names of `head.class_file` into `head.classes`, so that a run's record has them."""
    file = config.get("head", {}).get("class_file")
    if file and config.head.classes:
        raise UserError(
            f"config.head.class_file={file!r} and config.head.classes both name the classes; set "
            "one of them to be empty"
        )
    if file:
        try:
            config.head.classes = tuple(read_lines(file))
        except UserError as error:
            raise UserError(f"config.head.class_file={shown(file)}: {error}") from error


def _apply(config: ConfigDict, override: str) -> str | None:
    """Sets one key; returns what is wrong with it, if anything."""
    key, equals, words = override.removeprefix(OVERRIDE).partition("=")
    if not override.startswith(OVERRIDE) or not equals:
        return f"{override!r} is no override; write --config.KEY=VALUE"
    section, _, leaf = key.rpartition(".")
    parents = section.split(".") if section else []
    node: Any = config
    for depth, name in enumerate(parents):
        if name not in items(node):
            return _unknown(config, ".".join(parents[: depth + 1]))
        node = node[name]
    if isinstance(value := items(node).get(leaf), ConfigDict):
        keys = f"; set one of its keys: {', '.join(value)}" if value else ""
        return f"config.{key} is a section{keys}"
    kind = kind_of(key)
    known = isinstance(node, ConfigDict) and (leaf in node or leaf in optional_keys(section))
    if kind is None or not known:
        return _unknown(config, key)
    try:
        with node.ignore_type():
            node[leaf] = read(words, kind)
    except ValueError as error:
        return f"config.{key}={shown(error.args[0])} should be {kind.wanted}"
    return None


def _unknown(config: ConfigDict, key: str) -> str:
    section = key.rpartition(".")[0]
    known = [*flatten(config), *(f"{section}.{name}" for name in optional_keys(section))]
    return f"config.{key} does not exist{near(key, known, 'config.')}"


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    flat = {}
    for key, value in items(tree).items():
        if isinstance(value, (Mapping, ConfigDict)) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def items(tree: Any) -> dict[Any, Any]:
    """A section's values by key, without placeholders that have none; empty if it is no section."""
    found = {}
    for name in tree if isinstance(tree, (Mapping, ConfigDict)) else ():
        with contextlib.suppress(RequiredValueError):
            found[name] = tree[name]
    return found


def to_json(config: ConfigDict) -> dict:
    """The tree as JSON has it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def differences(stored: dict, wanted: dict, free: Sequence[str]) -> list[str]:
    """Keys in which two trees differ, in words, but for the keys that begin with one of `free`.

    What is free in `data.train` is so in the data sets of `data.sources`.
    """
    old, new = flatten(stored), flatten(wanted)
    missing = "(absent)"
    return [
        f"config.{key}: {old.get(key, missing)!r} there, {new.get(key, missing)!r} now"
        for key in sorted(old | new)
        if old.get(key, missing) != new.get(key, missing)
        and not _OF_A_SOURCE.sub("data.train.", key).startswith(tuple(free))
    ]
