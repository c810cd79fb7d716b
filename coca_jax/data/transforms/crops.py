"""Random crops of training images, of which no more is decoded than they need."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from coca_jax.data.transforms import images, jpeg
from coca_jax.patches import PatchBudget, Target, size_of

FACTORS = (8, 4, 2)  # by which JPEGs can be reduced


class Crop(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def reduced(self, factor: int) -> "Crop":
        """The same part of the image at 1 / factor of its size, to the nearest pixel."""
        (top, bottom), (left, right) = (
            [(edge + factor // 2) // factor for edge in (start, start + length)]
            for start, length in ((self.top, self.height), (self.left, self.width))
        )
        return Crop(top, left, bottom - top, right - left)


def decode_random_crop(
    data: bytes,
    target: Target,
    min_area: float,
    rng: np.random.Generator,
    least_side: int | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A random crop of an image file, as `random_resized_crop` makes it of the decoded image.

    Of most JPEGs only what the crop needs is decoded: no rows below it, and at 1/2, 1/4 or 1/8 of
    its size if the crop is still at least as large as its target. The pixels are the same, unless
    the crop is reduced: then it is made of means of squares of 2, 4 or 8 pixels, and its edges are
    rounded to whole squares.

    Args:
      data: the file.
      target: height and width in pixels, or a budget of patches.
      min_area: the least share of the image's area.
      rng: gives every random draw.
      least_side: of other files, which are decoded whole; see `images.decode`.

    Raises:
      BadExample: `images.decode` raises it.
    """
    header = _plain_header(data)
    if header is None:
        return random_resized_crop(images.decode(data, least_side), target, min_area, rng)
    crop = random_crop((header.height, header.width), target, min_area, rng)
    size = size_of(target, crop.height, crop.width)
    factor = reduction(crop, size)
    pixels = jpeg.decode_rows(data, header, crop.top + crop.height, factor)
    if pixels is None:
        pixels, factor = images.decode(data), 1
    return _resize(pixels, crop.reduced(factor), size)


def random_resized_crop(
    image: UInt8[np.ndarray, "h w 3"],
    target: Target,
    min_area: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A random part of at least about `min_area` of the image, stretched to its target size.

    See `random_crop` for which part it is.
    """
    crop = random_crop(image.shape[:2], target, min_area, rng)
    return _resize(image, crop, size_of(target, crop.height, crop.width))


def random_crop(
    shape: tuple[int, int], target: Target, min_area: float, rng: np.random.Generator
) -> Crop:
    """Draws a part of an image.

    The area is uniform in [min_area, 1] and the aspect ratio log-uniform in [3/4, 4/3] times that
    of the target, as in Szegedy et al. 2014 (https://arxiv.org/abs/1409.4842) for squares; sides
    too long are cut to the image's. A budget of patches has the image's own aspect ratio.

    Args:
      shape: height and width of the image.
      target: height and width to which the part will be stretched, or a budget of patches.
      min_area: the least share of the image's area.
      rng: gives every random draw.
    """
    height, width = shape
    size = shape if isinstance(target, PatchBudget) else target
    side = math.sqrt(height * width * rng.uniform(min_area, 1))
    stretch = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    stretch *= math.sqrt(size[1] / size[0])
    h = min(max(round(side / stretch), 1), height)
    w = min(max(round(side * stretch), 1), width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return Crop(int(top), int(left), h, w)


def reduction(crop: Crop, size: tuple[int, int]) -> int:
    """The factor by which an image can be reduced such that its crop is not enlarged to `size`."""
    least = min(crop.height / size[0], crop.width / size[1])
    return next((factor for factor in FACTORS if least >= factor), 1)


def _resize(
    image: UInt8[np.ndarray, "h w 3"], crop: Crop, size: tuple[int, int]
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """The crop of an image in a new array."""
    pixels = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if (crop.height, crop.width) == size:
        return pixels.copy()
    # Averaging all pixels costs five times as much; to halve the sides, bilinear sees enough.
    many = crop.height * crop.width > 4 * size[0] * size[1]
    interpolation = cv2.INTER_AREA if many else cv2.INTER_LINEAR
    return cv2.resize(pixels, size[::-1], interpolation=interpolation)


def _plain_header(data: bytes) -> jpeg.Header | None:
    """The header of a JPEG of which a part can be decoded."""
    try:
        header = jpeg.read_header(data) if data.startswith(jpeg.START) else None
    except Exception:  # `images.decode` says what is wrong
        return None
    pixels = 0 if header is None else header.height * header.width
    return header if 0 < pixels <= images.MAX_PIXELS and header.is_plain else None
