import cv2
import numpy as np
import pytest
from data.jpeg_files import PLAIN, encoded, photo

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import crops, images, jpeg
from coca_jax.data.transforms.crops import Crop

SHAPE = (150, 203)


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_random_crops_have_the_promised_area_and_lie_everywhere(size):
    wide = size[1] // size[0]
    rows, columns = np.mgrid[0:240, 0 : 240 * wide]
    # A pixel says where it comes from, in units in which image and target are square.
    image = np.stack([rows, columns // wide, rows], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    parts = [crops.random_resized_crop(image, size, 0.25, rng).astype(float) for _ in range(200)]
    assert {part.shape for part in parts} == {(*size, 3)}
    first, last = np.array([c[0, 0] for c in parts]), np.array([c[-1, -1] for c in parts])
    between = np.array(size) / (np.array(size) - 1)  # the centers of the outer pixels
    sides = (last - first)[:, :2] * between
    areas, aspects = sides.prod(-1) / 240**2, sides[:, 1] / sides[:, 0]
    assert 0.2 < areas.min() < 0.3 and 0.8 < areas.max() <= 1.02
    assert 0.70 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.40
    assert first[:, :2].min() < 10 and last[:, :2].max() > 230


def pair(data, size, min_area, seed):
    """A random crop of a file, and of the decoded image."""
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    crop = crops.decode_random_crop(data, size, min_area, rngs[0])
    expected = crops.random_resized_crop(images.decode(data), size, min_area, rngs[1])
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    return crop, expected.astype(int)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("size", [(150, 203), (100, 120), (76, 10)])
def test_crops_that_are_not_reduced_are_those_of_the_whole_image(kind, size):
    data = encoded(**PLAIN[kind])
    for seed in range(15):
        crop, expected = pair(data, size, 0.5, seed)
        np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "progressive", "gray"])
@pytest.mark.parametrize("size", [(60, 80), (24, 32), (15, 15)])
def test_reduced_crops_are_made_of_means_of_squares(kind, size):
    data = encoded(**PLAIN[kind])
    whole = images.Image.fromarray(images.decode(data))
    for seed in range(15):
        crop, _ = pair(data, size, 0.8, seed)
        top, left, height, width = crops.random_crop(SHAPE, size, 0.8, np.random.default_rng(seed))
        factor = max(f for f in (2, 4, 8) if height >= f * size[0] and width >= f * size[1])
        rows, columns = (
            slice(*(int(edge / factor + 0.5) for edge in (start, start + length)))
            for start, length in ((top, height), (left, width))
        )
        means = np.array(whole.reduce(factor))[rows, columns]
        many = means.shape[0] * means.shape[1] > 4 * size[0] * size[1]
        flag = cv2.INTER_AREA if many else cv2.INTER_LINEAR
        expected = cv2.resize(means, size[::-1], interpolation=flag).astype(int)
        # Colors are averaged before they are scaled up, and values out of range are not cut off.
        np.testing.assert_allclose(crop.astype(int), expected, atol=12)
        assert np.abs(crop - expected).mean() < 1


@pytest.mark.parametrize("size", [(60, 80), (24, 32), (15, 15)])
def test_reduced_crops_are_like_those_of_the_whole_image(size):
    """As far as two ways to scale down and half of a pixel allow."""
    for seed in range(15):
        crop, expected = pair(encoded(), size, 0.8, seed)
        assert 0 < np.abs(crop - expected).mean() < 5


@pytest.mark.parametrize(
    "height, width, factor",
    [
        (199, 399, 1),
        (200, 399, 1),
        (200, 400, 2),
        (399, 800, 2),
        (400, 800, 4),
        (800, 1600, 8),
        (9_000, 1_600, 8),
    ],
)
def test_no_reduced_crop_is_enlarged(height, width, factor):
    for start in range(9):
        crop = Crop(start, 8 - start, height, width)
        assert crops.reduction(crop, (100, 200)) == factor
        reduced = crop.reduced(factor)
        assert factor == 1 or (reduced.height >= 100 and reduced.width >= 200)
        assert abs(reduced.top * factor - crop.top) <= factor / 2
        assert abs((reduced.left + reduced.width) * factor - crop.left - width) <= factor / 2


@pytest.mark.parametrize("size", [(30, 30), (8, 40)])
def test_long_images_are_cropped(size):
    data = encoded(photo(40, 3_000))
    for seed in range(5):
        crop, expected = pair(data, size, 0.1, seed)
        np.testing.assert_allclose(crop.astype(int), expected, atol=60)


@pytest.mark.parametrize("least_side", [None, 40])
def test_other_files_are_decoded_whole(least_side, monkeypatch):
    monkeypatch.setattr(jpeg, "decode_rows", lambda *_: pytest.fail("decoded in part"))
    turned = images.Image.Exif()
    turned[0x0112] = 6
    for data in (
        encoded(exif=turned),
        encoded(photo().convert("CMYK")),
        encoded(kind="png"),
        encoded(kind="webp"),
    ):
        rngs = [np.random.default_rng(3) for _ in range(2)]
        whole = images.decode(data, least_side)
        expected = crops.random_resized_crop(whole, (24, 32), 0.3, rngs[0])
        crop = crops.decode_random_crop(data, (24, 32), 0.3, rngs[1], least_side)
        np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive"])
def test_bad_files_have_the_messages_of_whole_decoding(kind):
    data = encoded(photo(48, 64), **PLAIN[kind])
    cases = [data[:length] for length in range(0, len(data), 97)]
    cases += [data[:length] + b"<html>" for length in range(0, len(data), 97)]
    size = data.index(b"\xff\xc2" if kind == "progressive" else b"\xff\xc0") + 5
    cases += [data[:size] + b"\xff\xff\xff\xff" + data[size + 4 :]]
    cases += [data[:size] + bytes(4) + data[size + 4 :]]
    for case in cases:
        with pytest.raises(BadExample) as expected:
            images.decode(case)
        with pytest.raises(BadExample) as error:
            crops.decode_random_crop(case, (8, 8), 0.5, np.random.default_rng(0))
        assert str(error.value) == str(expected.value)


def test_a_damaged_file_that_opencv_reads_has_the_same_crops(capfd):
    data = encoded()
    for at in range(len(data) // 4, len(data), len(data) // 9):
        crop, expected = pair(data[:at] + b"\xff\xd3\x55" + data[at + 3 :], SHAPE, 1.0, 0)
        np.testing.assert_array_equal(crop, expected)


def test_crops_stay_when_the_thread_decodes_more():
    light, dark = (encoded(photo().point(lambda v, d=d: v // d)) for d in (1, 2))
    for size in (SHAPE, (100, 100), (30, 30)):
        crop = crops.decode_random_crop(light, size, 1.0, np.random.default_rng(0))
        before = crop.copy()
        crops.decode_random_crop(dark, size, 1.0, np.random.default_rng(0))
        np.testing.assert_array_equal(crop, before)
