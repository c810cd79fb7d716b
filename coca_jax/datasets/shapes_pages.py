"""Wide and tall pages with a row or a column of small shapes, and captions that list them.

A page is a grid of square cells, 4 to 8 of them long and 8 to 16 in all, each of which may hold a
shape. So pages show what an image encoder loses that stretches every image to a square.
"""

import itertools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from coca_jax.datasets import shapes
from coca_jax.datasets.base import Drawn
from coca_jax.datasets.shapes import CLASS_NAMES, COLORS, KINDS, Figure, listed, with_article

CELL = 16  # pixels: the side of a cell
LENGTHS, BREADTHS, AREAS = (4, 8), (1, 4), (8, 16)  # in cells: least and most of a page
COUNTS = (2, 4)  # least and most shapes of a page
RADIUS = 6.0  # pixels
RADIUS_JITTER = 0.1  # relative, either way
POSITION_JITTER = 1.0  # pixels, either way

GRIDS = [  # cells along a page, and across it
    (length, breadth)
    for length, breadth in itertools.product(*(range(a, b + 1) for a, b in (LENGTHS, BREADTHS)))
    if AREAS[0] <= length * breadth <= AREAS[1]
]


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
    """Draws a page of one of the grids, wide or tall; any shape may come again."""
    length, breadth = (CELL * cells for cells in GRIDS[rng.integers(len(GRIDS))])
    size = (breadth, length) if rng.random() < 0.5 else (length, breadth)
    count = int(rng.integers(COUNTS[0], COUNTS[1] + 1))
    return Page(*size, tuple(rng.integers(len(CLASS_NAMES), size=count).tolist()))


def figures(page: Page, rng: np.random.Generator) -> list[Figure]:
    """The shapes of a page in order along it, each in a row or column of its own."""
    cells, drawn = (max(page[:2]) // CELL, min(page[:2]) // CELL), []
    chosen = np.sort(rng.choice(cells[0], len(page.combinations), replace=False))
    for along, combination in zip(chosen, page.combinations, strict=True):
        cell = np.array([along, rng.integers(cells[1])])
        center = CELL * (cell + 0.5) + POSITION_JITTER * rng.uniform(-1, 1, 2)
        radius = RADIUS * (1 + RADIUS_JITTER * rng.uniform(-1, 1))
        color, kind = divmod(combination, len(KINDS))
        rgb = shapes.jittered(list(COLORS.values())[color], rng)
        outlines = list(KINDS.values())[kind]
        drawn.append(Figure(center if page.is_wide else center[::-1], radius, rgb, outlines))
    return drawn


def render(page: Page, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a page, RGB."""
    empty = shapes.background(rng, page.height, page.width)
    return shapes.draw(empty, figures(page, rng))


class ShapesPages(Drawn):
    """Wide and tall pages with two to four small shapes, each with a caption that lists them."""

    VERSION = tfds.core.Version("2.0.0")
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
