"""Images: decoding, and the resizing and cropping of evaluation (Pillow).

Everything here is uint8 RGB on the host; scaling to the model's range is done on the device.
"""

import dataclasses
import io
import math
import struct
import warnings
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from coca_jax.data.errors import BadExample, TooManyPixels
from coca_jax.data.transforms import jpeg
from coca_jax.data.transforms.image_headers import (
    PNG_START,
    describe_unknown,
    orientation,
    read_png,
)
from coca_jax.patches import Images, PatchBudget, Target, ready, size_of

# Callers decode in threads of their own; OpenCV's pool would compete with these.
cv2.setNumThreads(0)
# Pillow warns of large images and damaged metadata: these are decoded, or counted bad examples.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_PIXELS = 2**27  # of an encoded image; decoded, these are 400 MB
MAX_STRIP = 256  # times the target's length; of longer images evaluation scales only the middle

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_OTHERS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_OPENCV_SIDE = 1_000_000  # of a PNG, at most
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}


@dataclasses.dataclass(frozen=True)
class Resizing:
    """How an image gets the model's size for evaluation, as in OpenCLIP's `preprocess_cfg`.

    Attributes:
      mode: shortest: the image covers the size, and its center is cut out; longest: it fits into
        the size, and is surrounded by `fill_color`; squash: it is stretched to the size.
      interpolation: bicubic or bilinear.
      fill_color: a level of gray, from 0 to 255.
    """

    mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0

    @classmethod
    def of(cls, config: Any) -> "Resizing":
        """The resizing that an `ImageConfig` names."""
        return cls(config.resize_mode, config.interpolation, config.fill_color)


COVERING = Resizing()


def decode(data: bytes, least_side: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file to RGB: upright, gray expanded, alpha over white, the first frame.

    The content decides, not the name: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, PPM. CMYK is assumed
    to be stored inverted, as Adobe does; color profiles are ignored.

    Args:
      data: the file.
      least_side: a JPEG whose shorter side is at least 2, 4 or 8 times this many pixels is decoded
        at 1/2, 1/4 or 1/8 of its size, which is faster; None: never.

    Raises:
      BadExample: the data is not such an image, has no pixels or more than MAX_PIXELS, is cut off,
        or has 32 bits a channel. Of a JPEG that has an end in spite of missing data, the decoder
        may fill in gray pixels instead.
    """
    try:
        if data.startswith(jpeg.START):
            return _jpeg(data, least_side)
        if data.startswith(PNG_START) and len(data) >= 33:
            return _png(data)
        return _pillow(data)
    except (BadExample, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadExample("bad_image", describe_unknown(data)) from error
    except Image.DecompressionBombError as error:
        raise BadExample("bad_image", f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # decoders raise whatever they like
        raise BadExample("bad_image", error) from error


def read_size(data: bytes) -> tuple[int, int]:
    """The height and width of an image file as it is stored, by its header alone.

    Raises:
      BadExample: the data is not an image that `decode` knows.
      TooManyPixels: it has so many that its header does not count.
    """
    try:
        if data.startswith(jpeg.START):
            header = jpeg.read_header(data)
            return header.height, header.width
        if data.startswith(PNG_START) and len(data) >= 33:
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
        with Image.open(io.BytesIO(data), formats=_OTHERS) as image:
            return image.height, image.width
    except BadExample:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixels("bad_image", f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # as in `decode`
        raise BadExample("bad_image", describe_unknown(data)) from error


def resize_for_evaluation(
    image: UInt8[np.ndarray, "h w 3"], target: Target, resizing: Resizing = COVERING
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image at the model's size, scaled by Pillow.

    The same pixels as OpenCLIP's evaluation: torchvision's `Resize` and `CenterCrop`, and
    OpenCLIP's `ResizeKeepRatio` and `CenterCropOrPad`, which round instead of cutting off. A size
    of the image's own, of whole patches, is as near to its aspect ratio as it can be: the image is
    stretched to it, whatever the mode.
    """
    size = size_of(target, *image.shape[:2])
    resample = _FILTERS[resizing.interpolation]
    if resizing.mode == "squash" or isinstance(target, PatchBudget):
        return np.array(Image.fromarray(image).resize(size[::-1], resample))
    if resizing.mode == "longest":
        return _fitted(image, size, resample, resizing.fill_color)
    image = _without_far_ends(image, size)
    height, width = image.shape[:2]
    if size[0] == size[1]:
        short = min(height, width)
        resized = int(size[0] * height / short), int(size[0] * width / short)
    else:
        ratio = min(height / size[0], width / size[1])
        resized = round(height / ratio), round(width / ratio)
        resample = Image.Resampling.BICUBIC  # as OpenCLIP, whatever its configuration says
    top, left = (round((r - s) / 2) for r, s in zip(resized, size, strict=True))
    scaled = Image.fromarray(image).resize(resized[::-1], resample)
    return np.array(scaled.crop((left, top, left + size[1], top + size[0])))


def prepare(
    image: UInt8[np.ndarray, "h w 3"], target: Target, resizing: Resizing = COVERING
) -> Images:
    """The image as a model reads it: resized, and cut into patches if it has a size of its own."""
    return ready(resize_for_evaluation(image, target, resizing), target)


def _fitted(
    image: UInt8[np.ndarray, "h w 3"],
    size: tuple[int, int],
    resample: Image.Resampling,
    fill_color: int,
) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """The whole image, scaled to fit into `size`, in the middle of a gray area."""
    ratio = max(image.shape[0] / size[0], image.shape[1] / size[1])
    resized = [max(1, round(side / ratio)) for side in image.shape[:2]]
    scaled = Image.fromarray(image).resize(resized[::-1], resample)
    rows, columns = (s - r for s, r in zip(size, resized, strict=True))
    border = (columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2)
    return np.array(ImageOps.expand(scaled, border, (fill_color,) * 3))


def flip(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Mirrors an image: left and right are swapped."""
    return cv2.flip(image, 1)


def _without_far_ends(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The middle of an extremely long image, which would fill the memory if it were scaled."""
    height, width = image.shape[:2]
    h = min(height, MAX_STRIP * math.ceil(width * size[0] / size[1]))
    w = min(width, MAX_STRIP * math.ceil(height * size[1] / size[0]))
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def _jpeg(data: bytes, least_side: int | None) -> UInt8[np.ndarray, "h w 3"]:
    header = jpeg.read_header(data)
    _check_size(header.height, header.width)
    # OpenCV sees that data is missing, but not if zeros or a message stand in its place.
    if data.rfind(jpeg.END, header.frame) < 0:
        raise BadExample("bad_image", "a JPEG without end")
    for factor, flag in _REDUCED.items():
        if least_side and min(header.height, header.width) >= factor * least_side:
            return cv2.cvtColor(_opencv(data, flag), cv2.COLOR_BGR2RGB)
    return _opencv(data, cv2.IMREAD_COLOR_RGB)


def _png(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes by OpenCV, which is faster but ignores Exif data; special PNGs by Pillow."""
    width, height = struct.unpack_from(">II", data, 16)
    _check_size(height, width)
    png = read_png(data)
    if png.is_plain and orientation(png.exif) == 1 and max(height, width) <= _OPENCV_SIDE:
        return _opencv(png.data, cv2.IMREAD_COLOR_RGB)
    return _pillow(png.data, png.exif)


def _opencv(data: bytes, flag: int) -> UInt8[np.ndarray, "h w 3"]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None:
        raise BadExample("bad_image", "damaged or cut off")
    return image


def _pillow(data: bytes, exif: bytes = b"") -> UInt8[np.ndarray, "h w 3"]:
    image = Image.open(io.BytesIO(data), formats=_OTHERS)
    _check_size(image.height, image.width)
    image.load()  # which brings a TIFF upright
    if image.format != "TIFF":
        turn = _UPRIGHT.get(orientation(exif or image.info.get("exif", b"")))
        image = image if turn is None else image.transpose(turn)
    is_deep_pgm = image.mode == "I" and image.format == "PPM"  # Pillow scales it to 16 bits
    if image.mode in ("I", "F") and not is_deep_pgm:
        raise BadExample("bad_image", "32 bits a channel")
    if image.mode.startswith("I;16") or is_deep_pgm:  # which Pillow would clip
        deep = np.asarray(image).astype(np.uint16)
        deep[deep == image.info.get("transparency")] = 0xFFFF
        return cv2.cvtColor(cv2.convertScaleAbs(deep, alpha=1 / 257), cv2.COLOR_GRAY2RGB)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    return np.array(image.convert("RGB"))


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise BadExample("bad_image", f"{height} x {width} pixels, not 1 to {MAX_PIXELS}")
