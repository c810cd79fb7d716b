"""Reading configuration files, overrides from the command line, and comparing two trees."""

import ast
import difflib
import json
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.python_file import run_file
from coca_jax.errors import UserError
from coca_jax.io.files import read_lines

OVERRIDE = "--config."


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
            raise UserError(f"config.head.class_file={file!r}: {error}") from error


def _apply(config: ConfigDict, override: str) -> str | None:
    """Sets one key; returns what is wrong with it, if anything."""
    key, equals, text = override.removeprefix(OVERRIDE).partition("=")
    if not override.startswith(OVERRIDE) or not equals:
        return f"{override!r} is no override; write --config.KEY=VALUE"
    *parents, leaf = key.split(".")
    node: Any = config
    for depth, name in enumerate(parents):
        if not isinstance(node, ConfigDict) or name not in node:
            return _unknown(config, ".".join(parents[: depth + 1]))
        node = node[name]
    if len(parents) == 3 and parents[:2] == ["data", "sources"] and leaf not in node:
        known = {"weight": 0.0} | config.data.train.to_dict()  # which a data set may differ in
        if leaf in known:
            node[leaf] = known[leaf]
    if not isinstance(node, ConfigDict) or leaf not in node:
        return _unknown(config, key)
    if isinstance(node[leaf], ConfigDict):
        return f"config.{key} is a section; set one of its keys: {', '.join(node[leaf])}"
    try:
        node[leaf] = _parse(text, node[leaf])
    except (ValueError, SyntaxError, TypeError):
        kind = type(node[leaf]).__name__
        return f"config.{key}={text!r} should be of type {kind}, like {node[leaf]!r}"
    return None


def _unknown(config: ConfigDict, key: str) -> str:
    close = difflib.get_close_matches(key, flatten(config.to_dict()), n=1, cutoff=0.5)
    return f"config.{key} does not exist" + (f"; did you mean config.{close[0]}?" if close else "")


def _parse(text: str, current: Any) -> Any:
    """The text as a value of the current value's type."""
    if isinstance(current, str):
        return text
    if isinstance(current, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if isinstance(current, int):
        return int(text)
    if isinstance(current, float):
        return float(text)
    value = ast.literal_eval(text)
    if current is not None and not isinstance(value, (list, tuple)):
        raise ValueError(text)
    return tuple(value) if isinstance(value, list) else value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def to_json(config: ConfigDict) -> dict:
    """The tree as JSON has it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def differences(stored: dict, wanted: dict, free: Sequence[str]) -> list[str]:
    """Keys in which two trees differ, in words, but for the keys that begin with one of `free`."""
    old, new = flatten(stored), flatten(wanted)
    missing = "(absent)"
    return [
        f"config.{key}: {old.get(key, missing)!r} there, {new.get(key, missing)!r} now"
        for key in sorted(old | new)
        if old.get(key, missing) != new.get(key, missing) and not key.startswith(tuple(free))
    ]
