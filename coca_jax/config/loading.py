"""Reading configuration files, and overrides from the command line."""

from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.python_file import run_file
from coca_jax.config.tree import field_of, optional_fields
from coca_jax.errors import UserError
from coca_jax.fields import is_sequence, near, read, shown
from coca_jax.io.files import read_lines
from coca_jax.trees import flatten, items

OVERRIDE = "--config."


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config` of a Python file and applies overrides.

    Args:
      spec: `FILE` or `FILE:argument`; the longest beginning that is a file is the file.
      overrides: as on the command line, `--config.optimizer.learning_rate=3e-4`.

    Raises:
      UserError: the file cannot be used, or some overrides are wrong; names all of these.
    """
    config = run_file(spec)
    if errors := [error for override in overrides if (error := _apply(config, override))]:
        raise UserError("\n".join(errors))
    _name_classes(config)
    return config


def _name_classes(config: ConfigDict) -> None:
    """Reads the names in `head.class_file` into `head.classes`, so that a run's record has them."""
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
    """Sets one key; returns a message if that cannot be done."""
    key, equals, words = override.removeprefix(OVERRIDE).partition("=")
    if not override.startswith(OVERRIDE) or not equals:
        return f"{override!r} is not an override; write --config.KEY=VALUE"
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
    evaluation = items(node).get("kind")
    field, optional = field_of(key, evaluation), optional_fields(section, evaluation)
    exists = isinstance(node, ConfigDict) and (leaf in node or leaf in optional)
    if field is None or not exists:
        return _unknown(config, key, optional)
    try:
        with node.ignore_type():
            node[leaf] = read(words, field.kind)
    except ValueError as error:
        given = error.args[0]
        is_no_list = tuple in field.kind.types and not is_sequence(given)
        hint = "; a list is written as (1, 2) or ('a',)" if is_no_list else ""
        return f"config.{key}={shown(given)} should be {field.kind.wanted}{hint}"
    return None


def _unknown(config: ConfigDict, key: str, optional: Iterable[str] = ()) -> str:
    section = key.rpartition(".")[0]
    known = [*flatten(config), *(f"{section}.{name}" for name in optional)]
    return f"config.{key} does not exist{near(key, known, 'config.')}"
