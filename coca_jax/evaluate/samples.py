"""A few samples of many examples, for the report."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from coca_jax.data.transforms.multi_image import evenly_spaced, side_by_side
from coca_jax.patches import Patches

STRIP = 4  # images that are drawn of an example that has many


class EvenlySpaced:
    """Picks evenly spaced elements of a stream of unknown length.

    Fewer than twice as many as are wanted are kept meanwhile: whenever there would be more, every
    second one is dropped, and only every second one is kept from then on.
    """

    def __init__(self, wanted: int):
        self._wanted, self._kept, self._offered, self._stride = wanted, [], 0, 1

    def offer(self, make: Callable[[], Any]) -> None:
        """Offers the next element of the stream, which is made only if it is kept."""
        if self._offered % self._stride == 0:
            self._kept.append(make())
        if len(self._kept) == 2 * self._wanted:
            self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._offered += 1

    def chosen(self) -> list[Any]:
        """The sample: the requested number of elements, or all if there are fewer."""
        count = len(self._kept)
        taken = min(count, self._wanted)
        return [self._kept[i * count // taken] for i in range(taken)]


def thumbnail(image: UInt8[np.ndarray, "*several h w 3"] | Patches, side: int) -> bytes:
    """Returns a JPEG file of the image, shrunk if its longer side exceeds `side` pixels.

    Several images become a strip of at most STRIP of them, each of at most half of that size.
    """
    if isinstance(image, Patches):
        image = image.whole()
    if image.ndim == 4:
        chosen = image[evenly_spaced(len(image), min(STRIP, len(image)))]
        image, side = side_by_side(chosen[None])[0], side * len(chosen) // 2
    height, width, _ = image.shape
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, 92),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
