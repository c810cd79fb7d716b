"""Images, by OpenCV: decoding, and the resizing and cropping of training and evaluation.

Everything here is uint8 RGB on the host; scaling to the model's range is done on the device.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

# Callers decode in threads of their own, with which OpenCV's pool would compete.
cv2.setNumThreads(0)

JPEG_START = b"\xff\xd8\xff"


class BadExample(Exception):
    """An example that cannot be used; `kind` is what it is counted as."""

    def __init__(self, kind: str, cause: Exception | None = None):
        super().__init__(kind if cause is None else f"{kind} ({type(cause).__name__}: {cause})")
        self.kind = kind


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB: upright (JPEG's EXIF), grey expanded, alpha over white.

    Raises:
      BadExample: the data is empty or no image that OpenCV reads.
    """
    # Only IMREAD_UNCHANGED keeps alpha, and it ignores the orientation; a JPEG has no alpha.
    is_jpeg = data.startswith(JPEG_START)
    flags = cv2.IMREAD_COLOR_RGB if is_jpeg else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise BadExample("bad_image")
    return image if is_jpeg else _to_rgb(image)


def resize_for_evaluation(
    image: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The central square, scaled to size x size pixels: the whole shorter side is kept."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    image = image[top : top + side, left : left + side]
    return _resize(image, size, cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def random_resized_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int, min_area: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """A random part of at least about `min_area` of the image, stretched to size x size pixels.

    The area is uniform in [min_area, 1] and the aspect ratio log-uniform in [3/4, 4/3], as in
    Szegedy et al. 2014 (https://arxiv.org/abs/1409.4842); sides too long are cut to the image's.
    """
    height, width = image.shape[:2]
    side = math.sqrt(height * width * rng.uniform(min_area, 1))
    stretch = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    h = min(max(round(side / stretch), 1), height)
    w = min(max(round(side * stretch), 1), width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    # Averaging all pixels costs five times as much; to halve the sides, bilinear sees enough.
    interpolation = cv2.INTER_AREA if h * w > (2 * size) ** 2 else cv2.INTER_LINEAR
    return _resize(image[top : top + h, left : left + w], size, interpolation)


def flip(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Left and right exchanged."""
    return cv2.flip(image, 1)


def _resize(image: np.ndarray, size: int, interpolation: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    return cv2.resize(image, (size, size), interpolation=interpolation)


def _to_rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """From OpenCV's grey, BGR or BGRA of 8 or 16 bits."""
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    if image.dtype != np.uint8:
        raise BadExample("bad_image")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    rgb = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)
    if image.shape[-1] == 3:
        return rgb
    alpha = image[..., 3:] / np.float32(255)
    return np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
