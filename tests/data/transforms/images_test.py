import pathlib

import cv2
import numpy as np
import pytest

from coca_jax.data.transforms import images

OPEN_CLIP = pathlib.Path(__file__).parents[2] / "fixtures/open_clip/pixels"


def bicubic_weights(length, target):
    """Row i: what each of `length` pixels weighs in pixel i of `target`; Keys' kernel, a = -1/2."""
    scale = length / target
    centers = (np.arange(target)[:, None] + 0.5) * scale
    x = np.abs(np.arange(length) + 0.5 - centers) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("name", ["large", "small", "wide", "tall", "odd", "grey"])
def test_evaluation_gives_openclips_pixels(name):
    name += ".jpg" if name == "odd" else ".png"
    mean = np.array([0.48145466, 0.4578275, 0.40821073])  # of OpenAI's data
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = np.load(OPEN_CLIP / "pixels.npz")[name] * std + mean
    image = images.decode((OPEN_CLIP / name).read_bytes())
    pixels = images.resize_for_evaluation(image, expected.shape[:2]) / 255
    np.testing.assert_allclose(pixels, expected, atol=1.01 / 255)


with np.load(OPEN_CLIP / "resized.npz") as _file:
    RESIZED = dict(_file)


@pytest.mark.parametrize("key", RESIZED)
def test_every_resizing_gives_openclips_pixels(key):
    name, mode, interpolation, fill_color, _ = key.split("/")
    expected = RESIZED[key]
    image = images.decode((OPEN_CLIP / name).read_bytes())
    resizing = images.Resizing(mode, interpolation, int(fill_color))
    pixels = images.resize_for_evaluation(image, expected.shape[:2], resizing)
    np.testing.assert_allclose(pixels.astype(int), expected, atol=1)  # decoders of JPEG differ
    if not name.endswith(".jpg"):
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["longest", "squash"])
def test_an_extremely_long_image_keeps_a_row(mode):
    image = np.full((2, 5_000, 3), 200, np.uint8)
    pixels = images.resize_for_evaluation(image, (8, 8), images.Resizing(mode))
    assert pixels.shape == (8, 8, 3) and (pixels == 200).any()
    assert (pixels == 0).any() == (mode == "longest")


@pytest.mark.parametrize(
    "shape, size, resized, corner",
    [
        ((37, 53), (16, 16), (16, 22), (0, 3)),  # 22.9, cut off as by torchvision
        ((53, 37), (16, 16), (22, 16), (3, 0)),
        ((9, 7), (16, 16), (20, 16), (2, 0)),
        ((37, 53), (16, 30), (21, 30), (2, 0)),  # 20.9, rounded as by OpenCLIP
        ((37, 53), (16, 12), (16, 23), (0, 6)),  # 22.9; 5.5 is rounded to the even number
        ((20, 20), (20, 8), (20, 20), (0, 6)),
    ],
)
def test_evaluation_scales_to_cover_and_takes_the_center(shape, size, resized, corner):
    image = np.random.default_rng(0).integers(60, 200, (*shape, 3), dtype=np.uint8)
    rows, columns = (bicubic_weights(*sides) for sides in zip(shape, resized, strict=True))
    whole = np.einsum("ij,jkc,lk->ilc", rows, image.astype(float), columns)
    expected = whole[corner[0] :, corner[1] :][: size[0], : size[1]]
    # Between the two directions, Pillow rounds.
    np.testing.assert_allclose(images.resize_for_evaluation(image, size), expected, atol=1.2)


@pytest.mark.parametrize("width, left", [(10, 0), (13, 2), (15, 2), (17, 4)])
def test_evaluation_of_the_right_size_only_crops(width, left):
    image = np.random.default_rng(0).integers(0, 256, (10, width, 3), dtype=np.uint8)
    expected = image[:, left : left + 10]
    np.testing.assert_array_equal(images.resize_for_evaluation(image, (10, 10)), expected)
    turned = images.resize_for_evaluation(image.transpose(1, 0, 2), (10, 10))
    np.testing.assert_array_equal(turned, expected.transpose(1, 0, 2))


@pytest.mark.parametrize("size", [(8, 8), (4, 8)])
def test_extremely_long_images_are_not_scaled_whole(size):
    longest = 2 * 256 * size[1] // size[0]
    image = np.random.default_rng(0).integers(0, 256, (2, longest + 2_000, 3), dtype=np.uint8)
    expected = images.resize_for_evaluation(image[:, 1_000:-1_000], size)
    np.testing.assert_array_equal(images.resize_for_evaluation(image, size), expected)


def test_flip_exchanges_left_and_right():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(images.flip(image), image[:, ::-1])


def test_opencv_has_no_threads_of_its_own():
    assert cv2.getNumThreads() == 1
