"""The artifacts of an evaluation that a page draws: `eval/<step>/artifacts.json`.

The file holds, by evaluation, any of

- `samples`: image, caption, log_probability, references, exact, attention;
- `questions`: image, question, answer, given, accuracy;
- `text_to_image` (text, items) and `image_to_text` (image, items);
- `confusion` with `class_names` or, of many classes, `confused` (label, prediction, count, of).

An image is the name of a file in the same folder. The name is a hash of the content, so that an
image has one name at every step. Attention is a list of (word, map); a map is rows of patches'
weights.
"""

from typing import Any

import numpy as np

from coca_jax.io.stored import fits, is_number

_IMAGE = {"image": str}


def _is_map(value: Any) -> bool:
    """Whether these are rows of equal length, of numbers or null."""
    if not fits(value, [[(float, None)]]) or not value:
        return False
    return len({len(row) for row in value}) == 1 and len(value[0]) > 0


def _is_count(value: Any) -> bool:
    return is_number(value) and 0 <= value < 2**53


_ATTENTION = (None, [{"word": str, "map": _is_map}])
_RESULT = {"right": bool, "score": float}
_SHAPES = {
    "samples": [
        _IMAGE
        | {"caption": str, "log_probability": (float, None), "references": [str], "exact": bool}
        | {"attention?": _ATTENTION}
    ],
    "questions": [_IMAGE | {"question": str, "answer": str, "given?": str, "accuracy": float}],
    "text_to_image": [{"text": str, "items": [_IMAGE | _RESULT]}],
    "image_to_text": [_IMAGE | {"items": [{"text": str} | _RESULT]}],
    "class_names": [str],
    "confused": [{"label": str, "prediction": str, "count": float, "of": float}],
}


def is_drawable(content: Any) -> bool:
    """Whether these are artifacts of one evaluation, with nothing in them damaged."""
    if not isinstance(content, dict):
        return False
    pairs = (("text_to_image", "image_to_text"), ("confusion", "class_names"))
    if any(key in content and partner not in content for key, partner in pairs):
        return False
    if not all(fits(content[key], shape) for key, shape in _SHAPES.items() if key in content):
        return False
    if "confusion" not in content:
        return True
    count = len(content["class_names"])
    is_matrix = fits(content["confusion"], [[_is_count]])
    return is_matrix and np.array(content["confusion"], object).shape == (count, count)
