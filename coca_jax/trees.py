"""Nested sections of values, as configurations and their records are."""

import contextlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError


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
    """A section's values by key, without placeholders that have none; of anything else, nothing."""
    values = {}
    for name in tree if isinstance(tree, (Mapping, ConfigDict)) else ():
        with contextlib.suppress(RequiredValueError):
            values[name] = tree[name]
    return values
