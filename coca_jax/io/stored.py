"""JSON that is written, and read back when it may have been cut, swapped or edited since."""

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from coca_jax.io import files

EVAL_OPTIONS = "options.json"  # in eval/<step>: evaluation -> its options


class Damaged(ValueError):
    """A file is not what was written; says how."""


def parse_json(data: bytes) -> Any:
    """The value that a JSON file holds.

    Raises:
      Damaged: it is empty, not UTF-8, no JSON, nested too deeply, or has a key twice.
    """
    if not data.strip(b"\0 \t\r\n"):
        raise Damaged("is empty")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise Damaged(f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise Damaged("is nested too deeply") from error
    except Damaged:
        raise
    except ValueError as error:
        raise Damaged(f"is not JSON: {error}") from error


def read_json(path: str | os.PathLike, kind: type = dict) -> Any:
    """The object (or list) that a JSON file holds.

    Raises:
      FileNotFoundError: there is no such file.
      Damaged: it cannot be read from a local folder, or holds something else.
      OSError, or what the store's package raises: a store does not give it now.
    """
    try:
        data = files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        if files.is_url(os.fspath(path)):  # a store that refuses says nothing of the file
            raise
        raise Damaged(f"cannot be read: {error.strerror or error}") from error
    value = parse_json(data)
    if not isinstance(value, kind):
        raise Damaged(f"holds {shown(value)} where {_NAMES[kind]} should be")
    return value


def finite(value: Any) -> Any:
    """A value with null for each number that is not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(value: Any) -> str:
    """A value of a stored file in a message; long ones are cut."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def is_step(value: Any) -> bool:
    """Whether a value can be a step or another count: a whole number that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def fits(value: Any, shape: Any) -> bool:
    """Whether a value of a stored file is of the kind that is written there.

    Args:
      value: anything that JSON can hold.
      shape: a type, of which `float` stands for finite numbers and `int` for whole ones; None; a
        tuple of alternatives; `[shape]`, a list of such values; `{key: shape}`, an object that has
        these keys at least, but for those with a `?`; or a function of the value.
    """
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(
            fits(value[name], one) if name in value else key.endswith("?")
            for key, one in shape.items()
            for name in [key.removesuffix("?")]
        )
    if shape in (int, float):
        return is_number(value) and (shape is float or isinstance(value, int))
    if isinstance(shape, type):
        return isinstance(value, shape)
    return value is None if shape is None else bool(shape(value))


def are_metrics(content: Any) -> bool:
    """Whether this is what is written of an evaluation: numbers, null, and notes in words."""
    if not isinstance(content, dict) or not content:
        return False
    numbers = [value for name, value in content.items() if name != "notes"]
    notes = content.get("notes", {})
    if not fits(numbers, [(float, None)]) or not fits(notes, dict) or not (numbers or notes):
        return False
    return fits([*notes.values()], [str])


def left_out(path: str | os.PathLike, what: str) -> None:
    """Says on standard error that a file, or some of it, is not used."""
    print(f"warning: {path} {what}", file=sys.stderr)


_NAMES = {dict: "an object", list: "a list"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Damaged(f"has {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return result
