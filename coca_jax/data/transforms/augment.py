"""Augmentation of training images: random crop, flip, color jitter, RandAugment.

Images are uint8 RGB. Every random draw comes from the generator that is passed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from coca_jax.data.transforms import crops, images, multi_image
from coca_jax.errors import UserError
from coca_jax.patches import PatchBudget, Target

MAX_MAGNITUDE = 30  # of RandAugment
GRAY = (128, 128, 128)  # fills what an operation moves into the image

Number = float | int
RGB = UInt8[np.ndarray, "h w 3"]
Operation = Callable[[RGB, float], RGB]


@dataclass(frozen=True)
class Augment:
    """Makes an image of the model's size of an image file, or of pixels of any size.

    It is cropped, flipped, color-jittered and changed by RandAugment, in this order; steps that
    are off draw nothing.

    Attributes:
      image_size: height and width in pixels, or a budget of patches, by which each image has a size
        of its own.
      min_crop_area: least share of the image in a random crop; 1.0 crops as in evaluation.
      flip: whether half of the images are mirrored.
      color_jitter: of brightness, contrast, saturation (x: a factor in [max(0, 1 - x), 1 + x]) and
        hue (x: turned by [-x, x] of the circle), in random order; 0: off.
      randaugment: number of operations and their magnitude, as in Cubuk et al. 2019
        (https://arxiv.org/abs/1909.13719). Magnitudes are torchvision's (31 bins): 30 rotates by
        30 degrees. TensorFlow's code for TPUs calls that 10, and allows more.
      resizing: of images that are not cropped at random.

    Raises:
      UserError: an option has another value.
    """

    image_size: Target
    min_crop_area: float = 1.0
    flip: bool = False
    color_jitter: Sequence[Number] = (0.0, 0.0, 0.0, 0.0)
    randaugment: Sequence[int] = (0, 0)
    resizing: images.Resizing = images.COVERING

    def __post_init__(self):
        if errors := augment_option_errors(self.min_crop_area, self.color_jitter, self.randaugment):
            raise UserError("\n".join(errors))

    @property
    def least_side(self) -> int | None:
        """The shorter side to which an image may be reduced such that no crop is enlarged."""
        if self.min_crop_area >= 1 or isinstance(self.image_size, PatchBudget):
            return None
        height, width = self.image_size
        # The flattest crop of the smallest area is 4/3 times as wide for its height as the target.
        side = math.sqrt(height * width / self.min_crop_area * 4 / 3)
        return max(math.ceil(side), height, width)

    def __call__(
        self, image: bytes | RGB, rng: np.random.Generator, may_flip: bool
    ) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Augments one image.

        Args:
          image: a file, or pixels of any size.
          rng: gives every random draw.
          may_flip: whether the image may be mirrored; not if its text says left or right.

        Raises:
          BadExample: it cannot be decoded.
        """
        return self.change(self.crop(image, rng), rng, may_flip)

    def crop(self, image: bytes | RGB, rng: np.random.Generator) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Decodes an image, if it is a file, and crops it to the model's size."""
        if self.min_crop_area >= 1:
            pixels = images.decode(image) if isinstance(image, bytes) else image
            return images.resize_for_evaluation(pixels, self.image_size, self.resizing)
        crop = self.image_size, self.min_crop_area, rng
        if isinstance(image, bytes):
            return crops.decode_random_crop(image, *crop, self.least_side)
        return crops.random_resized_crop(image, *crop)

    def change(self, image: RGB, rng: np.random.Generator, may_flip: bool) -> RGB:
        """Augments an image that has the model's size."""
        if self.flip and may_flip and rng.random() < 0.5:
            image = images.flip(image)
        if any(self.color_jitter):
            image = _jitter(image, self.color_jitter, rng)
        number, magnitude = self.randaugment
        for _ in range(number):
            operation = _OPERATIONS[rng.integers(len(_OPERATIONS))]
            sign = 1 if rng.random() < 0.5 else -1
            image = operation(image, sign * magnitude / MAX_MAGNITUDE)
        return image

    def alike(
        self, pixels: Sequence[bytes | multi_image.RGB], rng: np.random.Generator, may_flip: bool
    ) -> list[multi_image.RGB]:
        """Augments the images of one example, all in the same way."""
        if len(pixels) == 1:
            return [self(pixels[0], rng, may_flip)]
        crop_seed, seed = (int(rng.integers(2**62)) for _ in range(2))

        def one(image: bytes | multi_image.RGB) -> multi_image.RGB:
            # How much a crop draws depends on the image's size; the changes do not.
            cropped = self.crop(image, np.random.default_rng(crop_seed))
            return self.change(cropped, np.random.default_rng(seed), may_flip)

        return multi_image.once_each(one, pixels)


def augment_option_errors(min_crop_area: Any, color_jitter: Any, randaugment: Any) -> list[str]:
    """Messages on options of an `Augment` that have a wrong value."""
    errors = []
    if not 0 < min_crop_area <= 1:
        errors.append(f"min_crop_area={min_crop_area!r} should be above 0 and at most 1")
    if not _are(color_jitter, (int, float), (math.inf, math.inf, math.inf, 0.5)):
        errors.append(
            f"color_jitter={color_jitter!r} should be four numbers: brightness, contrast and "
            "saturation of at least 0, hue from 0 to 0.5"
        )
    if not _are(randaugment, int, (math.inf, MAX_MAGNITUDE)):
        errors.append(
            f"randaugment={randaugment!r} should be two whole numbers: how many operations, and "
            f"their magnitude from 0 to {MAX_MAGNITUDE}"
        )
    return errors


def _are(values: Any, kind: type | tuple[type, ...], most: Sequence[Number]) -> bool:
    """Whether values are finite numbers of a kind, one for each limit, from 0 to that limit."""
    if not isinstance(values, Sequence) or len(values) != len(most):
        return False
    numbers = all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    return numbers and all(
        0 <= value <= limit and value < math.inf for value, limit in zip(values, most, strict=True)
    )


def brightness(image: RGB, factor: Number) -> RGB:
    """Multiplies every value by a factor."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def contrast(image: RGB, factor: Number) -> RGB:
    """Multiplies the distance from the image's mean gray by a factor."""
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def saturation(image: RGB, factor: Number) -> RGB:
    """Multiplies the distance of every pixel from its own gray by a factor."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def hue(image: RGB, turn: Number) -> RGB:
    """Turns the hue by this share of the circle; red turned by 1/3 is green."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * turn) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _jitter(image: RGB, amounts: Sequence[Number], rng: np.random.Generator) -> RGB:
    for which in rng.permutation(4):
        amount = amounts[which]
        if amount and which == 3:
            image = hue(image, rng.uniform(-amount, amount))
        elif amount:
            factor = rng.uniform(max(0, 1 - amount), 1 + amount)
            image = (brightness, contrast, saturation)[which](image, factor)
    return image


def _affine(image: RGB, matrix: Any) -> RGB:
    """Takes each pixel from where the matrix maps it; outside of the image is gray."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = image.shape[1::-1]
    return cv2.warpAffine(image, np.array(matrix, float), size, flags=flags, borderValue=GRAY)


def _rotate(image: RGB, degrees: Number) -> RGB:
    """Rotates clockwise about the center."""
    height, width = image.shape[:2]
    center = ((width - 1) / 2, (height - 1) / 2)
    return _affine(image, cv2.getRotationMatrix2D(center, degrees, 1))


def _translate(image: RGB, right: Number, down: Number) -> RGB:
    """Moves by these shares of the width and the height, in whole pixels."""
    height, width = image.shape[:2]
    return _affine(image, [(1, 0, -round(right * width)), (0, 1, -round(down * height))])


def _by_pillow(change: Callable[[Image.Image, float], Image.Image]) -> Operation:
    return lambda image, s: np.array(change(Image.fromarray(image), s))


# RandAugment's operations, of an image and a strength from -1 to 1; none of them mirrors.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, s: image,
    "autocontrast": _by_pillow(lambda image, s: ImageOps.autocontrast(image)),
    "equalize": _by_pillow(lambda image, s: ImageOps.equalize(image)),
    "rotate": lambda image, s: _rotate(image, 30 * s),
    "solarize": _by_pillow(lambda image, s: ImageOps.solarize(image, round(256 * (1 - abs(s))))),
    "color": lambda image, s: saturation(image, 1 + 0.9 * s),
    "posterize": _by_pillow(lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s)))),
    "contrast": lambda image, s: contrast(image, 1 + 0.9 * s),
    "brightness": lambda image, s: brightness(image, 1 + 0.9 * s),
    "sharpness": _by_pillow(lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s)),
    "shear_x": lambda image, s: _affine(image, [(1, 0.3 * s, 0), (0, 1, 0)]),
    "shear_y": lambda image, s: _affine(image, [(1, 0, 0), (0.3 * s, 1, 0)]),
    "translate_x": lambda image, s: _translate(image, 150 / 331 * s, 0),
    "translate_y": lambda image, s: _translate(image, 0, 150 / 331 * s),
}
_OPERATIONS = tuple(OPERATIONS.values())
