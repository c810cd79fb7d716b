"""The decoders of images: each decodes a tiny one."""

import base64
import io
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from coca_jax.doctor.finding import Finding, ok, problem

COLOR, TOLERANCE = (200, 100, 50), 4  # of all 8 x 8 pixels
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4R"
    "DgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wAARCAAIAAgDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAA"
    "AAT/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAABwj/xAAUEQEAAAAAAAAAAAAAAAAA"
    "AAAA/9oADAMBAAIRAxEAPwCQAHqQf//Z"
)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGM8kWLEgA0wYRUdtBIAFmEBbiBAe9oA"
    "AAAASUVORK5CYII="
)


def decoders() -> Iterator[Finding]:
    """Whether each decoder gives the pixels that it should."""
    for name, package, decode in (
        ("simplejpeg", "simplejpeg", _simplejpeg),
        ("OpenCV", "opencv-python-headless", _opencv),
        ("Pillow", "pillow", _pillow),
    ):
        data = (JPEG,) if name == "simplejpeg" else (JPEG, PNG)
        fix = f"pip install --force-reinstall {package}"
        try:
            right = all(_is_right(decode(file)) for file in data)
            number = version(package)
        except Exception as error:  # a library of the system may be missing
            yield problem(name, f"{type(error).__name__}: {error}", fix)
            continue
        if right:
            yield ok(name, f"{number}, decodes {'JPEG' if len(data) == 1 else 'JPEG and PNG'}")
        else:
            yield problem(name, f"{number} decodes a known image to other pixels", fix)


def _is_right(pixels: np.ndarray) -> bool:
    if pixels.shape != (8, 8, 3):
        return False
    return bool((abs(pixels.astype(int) - COLOR) <= TOLERANCE).all())


def _simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(data)


def _opencv(data: bytes) -> np.ndarray:
    import cv2

    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
