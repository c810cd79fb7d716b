"""Wide and tall pages with a row or a column of small shapes, and captions that list them.

All pages have about the area of a square of AREA_SIDE pixels, and an aspect ratio from 1:1 to 1:6,
either way. So they show what an image encoder loses that stretches every image to a square.
"""

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from coca_jax.datasets import shapes
from coca_jax.datasets.base import Drawn
from coca_jax.datasets.shapes import CLASS_NAMES, COLORS, KINDS, Figure, listed, with_article

AREA_SIDE = 64  # pixels: the side of the square whose area all pages have
MAX_ASPECT = 6.0  # length by breadth
COUNTS = (2, 4)  # least and most shapes of a page
RADIUS = 5.0  # pixels
RADIUS_JITTER = 0.1  # relative, either way
MARGIN = 6.5  # least pixels between a shape's center and the edge


class Page(NamedTuple):
    """What a page shows: its size in pixels, and the color and kind of each shape in order."""

    height: int
    width: int
    combinations: tuple[int, ...]  # indices into CLASS_NAMES

    @property
    def is_wide(self) -> bool:
        """Whether its shapes stand in a row, from left to right; else in a column, from above."""
        return self.width >= self.height

    @property
    def caption(self) -> str:
        """Lists the shapes in order, as in "a red star, a blue ring and a red cross"."""
        return listed([with_article(CLASS_NAMES[each]) for each in self.combinations])


def sample_page(rng: np.random.Generator) -> Page:
    """Draws a page; the logarithm of its aspect ratio is uniform, and any shape may come again."""
    aspect = math.exp(rng.uniform(0, math.log(MAX_ASPECT)))
    length, breadth = (round(AREA_SIDE * aspect**power) for power in (0.5, -0.5))
    size = (breadth, length) if rng.random() < 0.5 else (length, breadth)
    count = int(rng.integers(COUNTS[0], COUNTS[1] + 1))
    return Page(*size, tuple(rng.integers(len(CLASS_NAMES), size=count).tolist()))


def figures(page: Page, rng: np.random.Generator) -> list[Figure]:
    """The shapes of a page, spread over its length; each is anywhere across its breadth."""
    length, breadth = max(page[:2]), min(page[:2])
    step, drawn = length / len(page.combinations), []
    for number, combination in enumerate(page.combinations):
        slack = max(0.0, step / 2 - MARGIN)
        along = (number + 0.5) * step + slack * rng.uniform(-1, 1)
        across = rng.uniform(MARGIN, breadth - MARGIN)
        center = np.array((along, across) if page.is_wide else (across, along))
        radius = RADIUS * (1 + RADIUS_JITTER * rng.uniform(-1, 1))
        color, kind = divmod(combination, len(KINDS))
        rgb = shapes.jittered(list(COLORS.values())[color], rng)
        drawn.append(Figure(center, radius, rgb, list(KINDS.values())[kind]))
    return drawn


def render(page: Page, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a page, RGB."""
    empty = shapes.background(rng, page.height, page.width)
    return shapes.draw(empty, figures(page, rng))


class ShapesPages(Drawn):
    """Wide and tall pages with two to four small shapes, each with a caption that lists them."""

    VERSION = tfds.core.Version("1.0.0")
    size_mib = 47
    tokenizer_vocab_size = 400
    counts: ClassVar = {"train": 20_000, "test": 1_000}

    def features(self) -> dict[str, Any]:
        """An image and its captions."""
        return {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "captions": tfds.features.Sequence(tfds.features.Text()),
        }

    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Draws a page and its caption."""
        rng = np.random.default_rng([shapes.SEED, *seed, 3])
        page = sample_page(rng)
        return {"image": shapes.encode_png(render(page, rng)), "captions": [page.caption]}
