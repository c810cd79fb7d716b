import io

import cv2
import numpy as np
import pytest
from PIL import Image

from coca_jax.data import images


def encoded(image, kind, **options):
    """A file written by another library than the one that reads it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_channels_are_red_green_blue(kind):
    image = Image.new("RGB", (6, 4), (250, 128, 3))
    decoded = images.decode(encoded(image, kind, quality=100))
    assert decoded.shape == (4, 6, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to([250, 128, 3], (4, 6, 3)), atol=4)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparency_is_put_over_white(kind):
    alpha = np.zeros((2, 3, 4), np.uint8)
    alpha[..., :3] = (200, 100, 0)
    alpha[:, :, 3] = (0, 51, 255)  # transparent, a fifth, opaque
    decoded = images.decode(encoded(Image.fromarray(alpha), kind, lossless=True))
    expected = [(255, 255, 255), (244, 224, 204), (200, 100, 0)]
    np.testing.assert_array_equal(decoded, [expected, expected])


@pytest.mark.parametrize("mode, value", [("L", 77), ("1", 1), ("I;16", 77 * 257), ("P", 3)])
def test_other_pixel_formats_become_rgb(mode, value):
    expected = {"L": 77, "1": 255, "I;16": 77, "P": 9}[mode]
    image = Image.new(mode, (5, 4), value)
    if mode == "P":
        image.putpalette([channel for i in range(4) for channel in [3 * i] * 3])
    decoded = images.decode(encoded(image, "png"))
    np.testing.assert_array_equal(decoded, np.full((4, 5, 3), expected, np.uint8))


def test_grey_jpeg_becomes_rgb():
    decoded = images.decode(encoded(Image.new("L", (8, 8), 90), "jpeg"))
    np.testing.assert_allclose(decoded, np.full((8, 8, 3), 90), atol=1)


def test_jpeg_orientation_is_applied():
    image = Image.fromarray(np.repeat([[[255] * 3] * 16 + [[0] * 3] * 16], 16, 0).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    decoded = images.decode(encoded(image, "jpeg", exif=exif))
    assert decoded.shape == (32, 16, 3)
    assert decoded[:12].min() > 200 and decoded[-12:].max() < 50


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_data_is_a_bad_example(data):
    with pytest.raises(images.BadExample) as error:
        images.decode(data)
    assert error.value.kind == "bad_image"


def test_evaluation_keeps_the_central_square():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200  # the centre; what is beside it must not show
    np.testing.assert_array_equal(images.resize_for_evaluation(image, 5), np.full((5, 5, 3), 200))
    np.testing.assert_array_equal(
        images.resize_for_evaluation(image.transpose(1, 0, 2), 20), np.full((20, 20, 3), 200)
    )


def test_shrinking_averages():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    means = image.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(images.resize_for_evaluation(image, 8), means, atol=0.51)


def test_random_crops_have_the_promised_area_and_lie_everywhere():
    rows, columns = np.mgrid[0:240, 0:240].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)  # a pixel says where it comes from
    rng = np.random.default_rng(0)
    crops = [images.random_resized_crop(image, 16, 0.25, rng).astype(float) for _ in range(200)]
    first, last = np.array([c[0, 0] for c in crops]), np.array([c[-1, -1] for c in crops])
    sides = (last - first)[:, :2] * 16 / 15  # between the centres of the outer pixels
    areas, aspects = sides.prod(-1) / 240**2, sides[:, 1] / sides[:, 0]
    assert 0.2 < areas.min() < 0.3 and 0.8 < areas.max() <= 1.02
    assert 0.70 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.40
    assert first[:, :2].min() < 10 and last[:, :2].max() > 230


def test_flip_exchanges_left_and_right():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(images.flip(image), image[:, ::-1])


def test_opencv_has_no_threads_of_its_own():
    assert cv2.getNumThreads() == 1
