import pickle

import cv2
import numpy as np
import pytest
from data.jpeg_files import encoded
from PIL import Image, ImageEnhance, ImageOps

from coca_jax.data.transforms import augment, crops, images
from coca_jax.data.transforms.augment import OPERATIONS, Augment
from coca_jax.errors import UserError

MAGNITUDES = {"color", "contrast", "brightness", "sharpness", "posterize", "solarize", "rotate"} | {
    f"{kind}_{axis}" for kind in ("shear", "translate") for axis in "xy"
}
SIZE = (24, 24)


def noise(shape=(40, 50), seed=0):
    """Neighbors differ little, and all values occur."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("area", [0.3, 1.0])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("may_flip", [False, True])
def test_alone_crop_and_flip_draw_what_they_always_drew(area, flip, may_flip):
    image, rng = noise(), np.random.default_rng(5)
    if area < 1:
        expected = crops.random_resized_crop(image, SIZE, area, rng)
    else:
        expected = images.resize_for_evaluation(image, SIZE)
    if flip and may_flip and rng.random() < 0.5:
        expected = expected[:, ::-1]
    other = np.random.default_rng(5)
    result = Augment(SIZE, min_crop_area=area, flip=flip)(image, other, may_flip)
    np.testing.assert_array_equal(result, expected)
    assert other.bit_generator.state == rng.bit_generator.state


@pytest.mark.parametrize("area", [0.3, 1.0])
def test_a_file_is_augmented_as_its_pixels_are(area):
    data = encoded(quality=95)
    make = Augment((120, 180), min_crop_area=area, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1))
    for seed in range(5):
        images_of_file = make.alike([data, data], np.random.default_rng(seed), True)
        images_of_pixels = make.alike([images.decode(data)] * 2, np.random.default_rng(seed), True)
        np.testing.assert_array_equal(images_of_file, images_of_pixels)
        assert images_of_file[0] is images_of_file[1]


def test_images_of_other_sizes_are_changed_alike():
    halves = np.zeros((480, 640, 3), np.uint8)
    halves[:, :320] = 200
    pixels = [halves, cv2.resize(halves, (480, 640))]
    make = Augment(SIZE, min_crop_area=0.5, flip=True, color_jitter=(0.4, 0, 0, 0))
    for seed in range(20):
        edges = [
            image[12, [0, -1], 0] for image in make.alike(pixels, np.random.default_rng(seed), True)
        ]
        np.testing.assert_array_equal(*edges)


def test_half_of_the_images_are_flipped_but_none_that_may_not():
    image, make = noise(SIZE), Augment(SIZE, flip=True)
    rng = np.random.default_rng(0)
    flipped = [(make(image, rng, True) != image).any() for _ in range(200)]
    assert 70 < sum(flipped) < 130
    assert not any((make(image, rng, False) != image).any() for _ in range(20))


@pytest.mark.parametrize(
    "options", [{"color_jitter": (0.4, 0.4, 0.4, 0.1)}, {"randaugment": (3, 20)}]
)
@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_the_same_generator_gives_the_same_image(options, size):
    make = Augment(size, min_crop_area=0.5, flip=True, **options)
    made = [make(noise(), np.random.default_rng(seed), True) for seed in (0, 0, *range(1, 30))]
    assert {image.shape for image in made} == {(*size, 3)}
    assert {image.dtype for image in made} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(made[0], made[1])
    assert len({image.tobytes() for image in made}) > 25
    again = pickle.loads(pickle.dumps(make))(noise(), np.random.default_rng(0), True)
    np.testing.assert_array_equal(again, made[0])


@pytest.mark.parametrize(
    "options", [{"color_jitter": (0.9, 0.9, 0.9, 0.5)}, {"randaugment": (4, 30)}]
)
def test_the_image_that_is_given_stays_as_it_is(options):
    image = noise(SIZE)
    for seed in range(20):
        Augment(SIZE, **options)(image, np.random.default_rng(seed), True)
    np.testing.assert_array_equal(image, noise(SIZE))


def test_brightness_of_a_plain_image_is_uniform_in_its_range():
    image, rng = np.full((8, 8, 3), 100, np.uint8), np.random.default_rng(0)
    make = Augment((8, 8), color_jitter=(0.4, 0, 0, 0))
    values = np.array([np.unique(make(image, rng, True)).item() for _ in range(300)])
    assert values.min() < 64 and values.max() > 136 and 60 <= values.min() <= values.max() <= 140
    assert 95 < values.mean() < 105


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    "mine, pillows",
    [
        (augment.brightness, ImageEnhance.Brightness),
        (augment.contrast, ImageEnhance.Contrast),
        (augment.saturation, ImageEnhance.Color),
    ],
)
def test_jitter_is_pillows_enhancement(mine, pillows, factor):
    image = noise()
    expected = np.array(pillows(Image.fromarray(image)).enhance(factor))
    np.testing.assert_allclose(mine(image, factor).astype(int), expected, atol=2)


@pytest.mark.parametrize(
    "turn, expected",
    [
        (0, (255, 0, 0)),
        (1 / 3, (0, 255, 0)),
        (-1 / 3, (0, 0, 255)),
        (1 / 6, (255, 255, 0)),
        (0.5, (0, 255, 255)),
        (-0.5, (0, 255, 255)),
    ],
)
def test_hue_turns_red(turn, expected):
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    np.testing.assert_allclose(
        augment.hue(red, turn).astype(int), np.broadcast_to(expected, red.shape), atol=6
    )


def test_hue_jitter_stays_in_its_range_and_leaves_grey():
    red, gray = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), 90, np.uint8)
    make, rng = Augment((8, 8), color_jitter=(0, 0, 0, 1 / 12)), np.random.default_rng(0)
    turned = np.array([make(red, rng, True)[0, 0] for _ in range(200)]).astype(int)
    assert (turned[:, 0] == 255).all()  # a twelfth from red is halfway to yellow or magenta
    assert 110 < turned[:, 1].max() < 136 and 110 < turned[:, 2].max() < 136
    np.testing.assert_array_equal(make(gray, rng, True), gray)


def test_the_order_of_jitter_is_random():
    """A gray level under contrast, which keeps the mean, and brightness, which does not."""
    image = np.repeat(np.array([[60], [140]], np.uint8), 8, 0)[..., None].repeat(3, -1)
    image = np.ascontiguousarray(np.broadcast_to(image, (16, 16, 3)))
    firsts = {int(np.random.default_rng(seed).permutation(4)[0]) for seed in range(20)}
    assert firsts == {0, 1, 2, 3}
    make = Augment((16, 16), color_jitter=(0.5, 0.5, 0, 0))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        expected = Image.fromarray(image)
        for which in rng.permutation(4):
            if which < 2:
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast)[which]
                expected = kind(expected).enhance(rng.uniform(0.5, 1.5))
        made = make(image, np.random.default_rng(seed), True)
        np.testing.assert_allclose(made.astype(int), np.array(expected), atol=3)


@pytest.mark.parametrize("name", sorted(MAGNITUDES | {"identity"}))
def test_no_magnitude_changes_nothing(name):
    np.testing.assert_array_equal(OPERATIONS[name](noise(), 0.0), noise())


def test_the_operations_are_the_papers():
    assert set(OPERATIONS) == MAGNITUDES | {"identity", "autocontrast", "equalize"}


@pytest.mark.parametrize("strength", [-1.0, -2 / 3, 2 / 3, 1.0])
@pytest.mark.parametrize(
    "name, pillows",
    [
        ("autocontrast", lambda p, s: ImageOps.autocontrast(p)),
        ("equalize", lambda p, s: ImageOps.equalize(p)),
        ("color", lambda p, s: ImageEnhance.Color(p).enhance(1 + 0.9 * s)),
        ("contrast", lambda p, s: ImageEnhance.Contrast(p).enhance(1 + 0.9 * s)),
        ("brightness", lambda p, s: ImageEnhance.Brightness(p).enhance(1 + 0.9 * s)),
        ("sharpness", lambda p, s: ImageEnhance.Sharpness(p).enhance(1 + 0.9 * s)),
    ],
)
def test_colors_change_as_by_pillow(name, pillows, strength):
    expected = np.array(pillows(Image.fromarray(noise()), strength))
    made = OPERATIONS[name](noise(), strength)
    np.testing.assert_allclose(made.astype(int), expected, atol=2)


@pytest.mark.parametrize("strength, bits", [(1.0, 4), (-1.0, 4), (0.5, 6), (-0.25, 7)])
def test_posterize_keeps_the_highest_bits(strength, bits):
    expected = noise() >> (8 - bits) << (8 - bits)
    np.testing.assert_array_equal(OPERATIONS["posterize"](noise(), strength), expected)


@pytest.mark.parametrize("strength, threshold", [(1.0, 0), (-1.0, 0), (0.5, 128), (-0.25, 192)])
def test_solarize_inverts_from_a_threshold(strength, threshold):
    expected = np.where(noise() < threshold, noise(), 255 - noise())
    np.testing.assert_array_equal(OPERATIONS["solarize"](noise(), strength), expected)


@pytest.mark.parametrize("strength", [-1.0, -0.5, 0.5, 1.0])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_translation_moves_whole_pixels_and_fills_with_grey(axis, strength):
    pil = Image.fromarray(noise((40, 60)))
    pixels = round(150 / 331 * {"x": 60, "y": 40}[axis] * strength)
    expected = Image.new("RGB", pil.size, (128, 128, 128))
    expected.paste(pil, (pixels, 0) if axis == "x" else (0, pixels))
    made = OPERATIONS[f"translate_{axis}"](np.array(pil), strength)
    np.testing.assert_array_equal(made, np.array(expected))


@pytest.mark.parametrize("strength", [-1.0, 0.7])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_rotation_and_shear_are_pillows(name, strength):
    pil = Image.fromarray(noise((64, 64)))
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    shear = 0.3 * strength
    if name == "rotate":
        expected = pil.rotate(-30 * strength, **options)  # Pillow's goes counterclockwise
    else:
        matrix = (1, shear, 0, 0, 1, 0) if name == "shear_x" else (1, 0, 0, shear, 1, 0)
        expected = pil.transform(pil.size, Image.Transform.AFFINE, matrix, **options)
    errors = np.abs(OPERATIONS[name](np.array(pil), strength) - np.array(expected, int))
    assert np.percentile(errors, 95) <= 3  # at the border, OpenCV blends with the gray
    assert errors.mean() < 2


@pytest.mark.parametrize("strength", [-1.0, 1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_nothing_mirrors(name, strength):
    image = np.full((64, 64, 3), 128, np.uint8)
    image[28:36, 26:30], image[28:36, 34:38] = (255, 0, 0), (0, 0, 255)
    made = OPERATIONS[name](image, strength).astype(int)
    red, blue = ((made[..., c] - made[..., 2 - c] > 60).nonzero()[1] for c in (0, 2))
    assert len(red) + len(blue)
    # Moved by nearly half of the width, one of them may be outside.
    assert not len(red) or not len(blue) or red.mean() < blue.mean() - 5


def test_all_operations_are_drawn_both_ways(monkeypatch):
    seen = []

    def spy(name):
        return lambda image, strength: seen.append((name, strength)) or image

    monkeypatch.setattr(augment, "_OPERATIONS", tuple(spy(name) for name in OPERATIONS))
    make, rng = Augment((8, 8), randaugment=(2, 20)), np.random.default_rng(0)
    for _ in range(300):
        make(noise((8, 8)), rng, True)
    assert len(seen) == 600
    assert set(seen) == {(name, sign * 20 / 30) for name in OPERATIONS for sign in (1, -1)}


@pytest.mark.parametrize("size", [(224, 224), (32, 96), (96, 32)])
@pytest.mark.parametrize("area", [0.08, 0.5, 0.99])
def test_what_decoding_may_reduce_to_has_no_crop_smaller_than_the_model_needs(
    size, area, monkeypatch
):
    least, shapes = Augment(size, min_crop_area=area).least_side, []
    monkeypatch.setattr(
        crops.cv2,
        "resize",
        lambda crop, size, **_: shapes.append(crop.shape) or np.zeros((*size[::-1], 3), np.uint8),
    )
    image, rng = np.zeros((least, least + 9, 3), np.uint8), np.random.default_rng(0)
    for _ in range(300):
        crops.random_resized_crop(image, size, area, rng)
    smallest = np.min([shape[:2] for shape in shapes], axis=0)
    assert (smallest >= np.array(size) - 1).all()  # rounded
    assert (smallest < 1.5 * np.array(size)).any()
    assert Augment(size).least_side is None


@pytest.mark.parametrize(
    "options",
    [
        {"min_crop_area": 0.0},
        {"min_crop_area": 1.5},
        {"color_jitter": (0.1, 0.1, 0.1)},
        {"color_jitter": (0.1, 0.1, 0.1, 0.6)},
        {"color_jitter": (-0.1, 0, 0, 0)},
        {"color_jitter": (float("nan"), 0, 0, 0)},
        {"color_jitter": (float("inf"), 0, 0, 0)},
        {"randaugment": (2, 31)},
        {"randaugment": (-1, 5)},
        {"randaugment": (2,)},
    ],
)
def test_a_wrong_option_is_named(options):
    ((name, value),) = options.items()
    with pytest.raises(UserError) as error:
        Augment(SIZE, **options)
    assert str(error.value).startswith(f"{name}={value!r} should be ")


def test_options_of_a_wrong_kind_are_errors():
    assert len(augment.augment_option_errors(1.0, "abcd", (1.5, 2))) == 2
    assert augment.augment_option_errors(1.0, [0, 0.1, 0, 0.5], [2, 30]) == []
