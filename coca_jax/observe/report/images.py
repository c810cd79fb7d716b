"""Images of the report's pages, as addresses that hold the whole file."""

import base64
import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from coca_jax.errors import UserError
from coca_jax.io.files import read_bytes
from coca_jax.io.stored import left_out

MASK_SIZE = 96  # pixels of a mask's longer side


class WordMap(NamedTuple):
    """The attention that one word of a caption paid to the patches of its image."""

    word: str
    largest: float  # weight of a patch
    patches: int
    aspect: str  # "columns/rows"
    mask: str  # address of the PNG; see `mask_url`


def image_url(folder: epath.Path, file: str) -> str:
    """The JPEG file as an address that holds it; an empty one if the file has gone."""
    try:
        content = read_bytes(folder / os.path.basename(file))
    except (OSError, UserError) as error:  # UserError: a NUL in its name
        left_out(folder / "artifacts.json", f"names an image that cannot be read: {error}")
        return "data:,"
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def word_maps(attention: list[dict[str, Any]]) -> list[WordMap]:
    """The maps of a sample's `attention`, one a word."""
    maps = []
    for entry in attention:
        # A model that has diverged leaves null for its weights.
        weights = np.nan_to_num(np.array(entry["map"], float))
        rows, columns = weights.shape
        largest, aspect = float(weights.max()), f"{columns}/{rows}"
        maps.append(WordMap(entry["word"], largest, weights.size, aspect, mask_url(weights)))
    return maps


def mask_url(weights: Float[np.ndarray, "rows columns"]) -> str:
    """A PNG whose patches are as opaque as their share of the largest weight, as an address."""
    import cv2

    shares = np.rint(255 * weights / max(weights.max(), 1e-12)).astype(np.uint8)
    # Browsers blur what they enlarge, and few patches would run into each other.
    size = max(1, MASK_SIZE // max(shares.shape))
    shares = shares.repeat(size, axis=0).repeat(size, axis=1)
    pixels = np.dstack([np.zeros((*shares.shape, 3), np.uint8), shares])
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
