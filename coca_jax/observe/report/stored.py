"""What a page may draw: the shapes of what evaluations and comparisons have written."""

from typing import Any

import numpy as np

from coca_jax.io.stored import fits, is_number, is_step

_IMAGE = {"image": str}


def _is_map(value: Any) -> bool:
    """Whether these are rows of equal length, of numbers or null."""
    if not fits(value, [[(float, None)]]) or not value:
        return False
    return len({len(row) for row in value}) == 1 and len(value[0]) > 0


def _is_count(value: Any) -> bool:
    return is_number(value) and 0 <= value < 2**53


_ATTENTION = (None, [{"word": str, "map": _is_map}])
_FOUND = {"right": bool, "score": float}
# What an evaluation's artefacts may hold, by the key.
DRAWN = {
    "samples": [
        _IMAGE
        | {"caption": str, "log_probability": (float, None), "references": [str], "exact": bool}
        | {"attention?": _ATTENTION}
    ],
    "questions": [_IMAGE | {"question": str, "answer": str, "given?": str, "accuracy": float}],
    "text_to_image": [{"text": str, "items": [_IMAGE | _FOUND]}],
    "image_to_text": [_IMAGE | {"items": [{"text": str} | _FOUND]}],
    "class_names": [str],
    "confused": [{"label": str, "prediction": str, "count": float, "of": float}],
}


def is_drawable(content: Any) -> bool:
    """Whether these are artefacts of an evaluation, all of them as they are written."""
    if not isinstance(content, dict):
        return False
    pairs = (("text_to_image", "image_to_text"), ("confusion", "class_names"))
    if any(key in content and other not in content for key, other in pairs):
        return False
    if not all(fits(content[key], shape) for key, shape in DRAWN.items() if key in content):
        return False
    if "confusion" not in content:
        return True
    count = len(content["class_names"])
    square = fits(content["confusion"], [[_is_count]])
    return square and np.array(content["confusion"], object).shape == (count, count)


_ROW = {"seeds": dict, "changes": list}


def are_tables(content: Any) -> bool:
    """Whether this is what a comparison has written."""
    shape = {"steps": dict, "tables": dict, "rows": dict, "metrics": [str]}
    if not fits(content, shape) or not fits([*content["steps"].values()], [is_step]):
        return False
    rows, tables = content["rows"], [*content["tables"].values()]
    if not fits(tables, [[str]]) or not fits([*rows.values()], [_ROW]):
        return False
    if any(not names or not set(names) <= rows.keys() for names in tables):
        return False
    values = {name: (float, None) for name in content["metrics"]} | {
        "step_seconds": (float, None),
        "flops": float,
    }
    runs = [run for row in rows.values() for run in row["seeds"].values()]
    pairs = [change for row in rows.values() for change in row["changes"]]
    return fits(runs, [values]) and all(fits(pair, list) and len(pair) == 2 for pair in pairs)
