"""Images: decoding, and the resizing and cropping of training (OpenCV) and evaluation (Pillow).

Everything here is uint8 RGB on the host; scaling to the model's range is done on the device.
"""

import math

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Callers decode in threads of their own, with which OpenCV's pool would compete.
cv2.setNumThreads(0)

JPEG_START = b"\xff\xd8\xff"
MAX_STRIP = 256  # targets in a row: of a longer image, evaluation scales only the middle


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
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """The image scaled to cover `size` (height, width), by Pillow's bicubic, and its centre.

    The same pixels as OpenCLIP's evaluation: torchvision's `Resize` and `CenterCrop`, and for
    targets that are not square OpenCLIP's `ResizeKeepRatio`, which rounds instead of cutting off.
    """
    image = _without_far_ends(image, size)
    height, width = image.shape[:2]
    if size[0] == size[1]:
        short = min(height, width)
        resized = int(size[0] * height / short), int(size[0] * width / short)
    else:
        ratio = min(height / size[0], width / size[1])
        resized = round(height / ratio), round(width / ratio)
    top, left = (round((r - s) / 2) for r, s in zip(resized, size, strict=True))
    picture = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BICUBIC)
    return np.array(picture.crop((left, top, left + size[1], top + size[0])))


def random_resized_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: tuple[int, int],
    min_area: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """A random part of at least about `min_area` of the image, stretched to `size` (height, width).

    The area is uniform in [min_area, 1] and the aspect ratio log-uniform in [3/4, 4/3] times that
    of `size`, as in Szegedy et al. 2014 (https://arxiv.org/abs/1409.4842) for squares; sides too
    long are cut to the image's.
    """
    height, width = image.shape[:2]
    side = math.sqrt(height * width * rng.uniform(min_area, 1))
    stretch = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    stretch *= math.sqrt(size[1] / size[0])
    h = min(max(round(side / stretch), 1), height)
    w = min(max(round(side * stretch), 1), width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    crop = image[top : top + h, left : left + w]
    if crop.shape[:2] == size:
        return np.ascontiguousarray(crop)
    # Averaging all pixels costs five times as much; to halve the sides, bilinear sees enough.
    interpolation = cv2.INTER_AREA if h * w > 4 * size[0] * size[1] else cv2.INTER_LINEAR
    return cv2.resize(crop, size[::-1], interpolation=interpolation)


def flip(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Left and right exchanged."""
    return cv2.flip(image, 1)


def _without_far_ends(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The middle of an extremely long image, which scaled whole would fill the memory."""
    height, width = image.shape[:2]
    h = min(height, MAX_STRIP * math.ceil(width * size[0] / size[1]))
    w = min(width, MAX_STRIP * math.ceil(height * size[1] / size[0]))
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


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
