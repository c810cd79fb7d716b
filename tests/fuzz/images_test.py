import cv2
import numpy as np
import pytest
from fuzz.drawing import edited, edits, encoded
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import crops, images, multi_image

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "PNG": ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["RGB", "L", "P"],
    "BMP": ["RGB", "L", "1", "P"],
    "TIFF": ["RGB", "L", "1", "P", "RGBA", "CMYK", "F", "I"],
    "AVIF": ["RGB"],
    "PPM": ["RGB", "L", "1"],
}
KIND = st.sampled_from([(form, mode) for form, modes in MODES.items() for mode in modes])
SIDE = st.sampled_from([1, 2, 7, 40])
OPTIONS = {
    "JPEG": [{}, {"progressive": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}, {"quality": 1}],
    "PNG": [{}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"}, {"icc_profile": b"none"}],
    "WEBP": [{}, {"lossless": True}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}],
}
LEAST = st.none() | st.integers(1, 40)
SIZE = st.tuples(st.integers(1, 9), st.integers(1, 9))


def decoded(data, least_side=None):
    """The pixels, or None of a bad example."""
    try:
        pixels = images.decode(data, least_side)
    except BadExample as error:
        assert error.kind == "bad_image" and error.reason
        return None
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    return pixels


def image_file(kind, height, width, number):
    form, mode = kind
    options = OPTIONS.get(form, [{}])
    options = options[number % len(options)]
    if options.get("compression") == "jpeg" and mode not in ("RGB", "L"):
        options = {}
    return encoded(form, mode, height, width, **options)


FILE = {"kind": KIND, "height": SIDE, "width": SIDE, "number": st.integers(0, 3)}


@fuzz(200, **FILE, cut=st.integers(0, 1 << 12), more=st.binary(max_size=9))
def test_a_cut_image_is_bad_or_has_all_its_pixels(folder, kind, height, width, number, cut, more):
    data = image_file(kind, height, width, number)
    whole = decoded(data)
    if kind[1] in ("F", "I"):
        assert whole is None
        return
    assert whole.shape == (height, width, 3)
    np.testing.assert_array_equal(decoded(data + more), whole)
    part = decoded(data[: cut % len(data)])
    if part is not None:
        np.testing.assert_array_equal(part, whole)


@fuzz(250, **FILE, changes=edits(least=1), least=LEAST, size=SIZE)
def test_a_damaged_image_is_pixels_or_bad(
    folder, kind, height, width, number, changes, least, size
):
    data = edited(image_file(kind, height, width, number), changes)
    pixels = decoded(data, least)
    if pixels is not None:
        assert images.resize_for_evaluation(pixels, size).shape == (*size, 3)
        crop = crops.random_resized_crop(pixels, size, 0.1, np.random.default_rng(0))
        assert crop.shape == (*size, 3)


JPEG = st.sampled_from([("JPEG", mode) for mode in MODES["JPEG"]])


@fuzz(250, **FILE | {"kind": JPEG}, changes=edits(least=1), seed=st.integers(0, 3))
def test_a_damaged_jpeg_has_the_crops_of_the_whole_image(
    folder, kind, height, width, number, changes, seed
):
    data = edited(image_file(kind, height, width, number), changes)
    whole = decoded(data)
    size = (33, 33)  # of which no image is twice as large
    if whole is not None and max(whole.shape) <= 65:
        crop = crops.decode_random_crop(data, size, 0.3, np.random.default_rng(seed))
        expected = crops.random_resized_crop(whole, size, 0.3, np.random.default_rng(seed))
        np.testing.assert_array_equal(crop, expected)


@fuzz(60, count=st.integers(1, 5), changes=edits())
def test_a_damaged_video_is_frames_or_bad(folder, count, changes):
    path = str(folder / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (16, 16))
    for value in range(4):
        writer.write(np.full((16, 16, 3), 60 * value, np.uint8))
    writer.release()
    with open(path, "rb") as file:
        data = edited(file.read(), changes)
    try:
        frames = multi_image.decode_images(data, count)
    except BadExample as error:
        assert changes and error.kind == "bad_image"
    else:
        assert len(frames) == count
