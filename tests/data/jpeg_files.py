"""JPEG files for tests."""

import io

import cv2
import numpy as np
from PIL import Image


def photo(height=150, width=203):
    """Noise at several scales, as in photographs."""
    rng, image = np.random.default_rng(0), np.full((height, width, 3), 128.0, np.float32)
    for scale in (2, 4, 8, 16, 32):
        noise = rng.standard_normal((-(-height // scale), -(-width // scale), 3), np.float32)
        noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        image += noise * 2.5 * scale**0.65
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def encoded(image=None, kind="jpeg", **options):
    """A file of an image, by default of the photo, written by Pillow."""
    buffer = io.BytesIO()
    (image or photo()).save(buffer, kind, **{"quality": 90} | options)
    return buffer.getvalue()


PLAIN = {  # JPEGs of which a part can be decoded: options of `encoded`
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "stored as RGB": {"keep_rgb": True},
    "upright": {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"},
    "gray": {"image": photo().convert("L")},
}
