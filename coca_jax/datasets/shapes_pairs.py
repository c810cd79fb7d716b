"""Pairs of the scenes of `shapes`, each with a statement about both that is true or false.

As in NLVR2. Each statement is true of half of its pairs, so that the text alone tells nothing.
"""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from coca_jax.datasets import shapes
from coca_jax.datasets.base import Drawn
from coca_jax.datasets.shapes import (
    CLASS_NAMES,
    COLORS,
    NOVEL,
    SEEN,
    Scene,
    Shape,
    sample_scene,
    with_article,
)

COMPARISONS = {
    "the left shows more": lambda left, right: left > right,
    "the right shows more": lambda left, right: left < right,
    "both show as many": lambda left, right: left == right,
}  # functions of the numbers of shapes
RULES = {
    "both show {}": lambda left, right: left and right,
    "only the left shows {}": lambda left, right: left and not right,
    "only the right shows {}": lambda left, right: right and not left,
}  # functions of whether each image shows it
COMPARED, COLORED = 1 / 8, 3 / 8  # shares of the statements about numbers and about colors

Pair = tuple[Scene, Scene, str, bool]


def sample_pair(rng: np.random.Generator, split: str) -> Pair:
    """Draws a statement, whether it is true, and two scenes of a split for which that holds."""
    truth = bool(rng.integers(2))
    if (kind := rng.random()) < COMPARED:
        return _compared(rng, split, truth)
    if kind < COMPARED + COLORED:
        color = int(rng.integers(len(COLORS)))
        name = f"{with_article(list(COLORS)[color])} one"
        return _shown(rng, split, truth, name, lambda shape: shape.color == color)
    novel = split == "test_novel" and rng.random() < 0.5
    combination = rng.choice(NOVEL if novel else SEEN)
    name = with_article(CLASS_NAMES[combination])
    return _shown(rng, split, truth, name, lambda shape: shape.combination == combination)


def _compared(rng: np.random.Generator, split: str, truth: bool) -> Pair:
    text, holds = list(COMPARISONS.items())[rng.integers(len(COMPARISONS))]
    while True:
        left, right = (sample_scene(rng, split) for _ in range(2))
        if holds(len(left), len(right)) == truth:
            return left, right, text, truth


def _shown(
    rng: np.random.Generator, split: str, truth: bool, name: str, is_it: Callable[[Shape], bool]
) -> Pair:
    text, holds = list(RULES.items())[rng.integers(len(RULES))]
    cases = [case for case in itertools.product((False, True), repeat=2) if holds(*case) == truth]
    scenes = []
    for wanted in cases[rng.integers(len(cases))]:
        while any(map(is_it, scene := sample_scene(rng, split))) != wanted:
            pass
        scenes.append(scene)
    return *scenes, text.format(name), truth


class ShapesPairs(Drawn):
    """Two scenes of colored shapes, and a statement about them that is true or false."""

    VERSION = tfds.core.Version("1.0.0")
    size_mib = 31
    counts: ClassVar = {"train": 12_000, "test": 2_000, "test_novel": 2_000}

    def features(self) -> dict[str, Any]:
        """Two images, and lists of one statement and of its truth."""
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        texts = tfds.features.Sequence(tfds.features.Text())
        return {"images": tfds.features.Sequence(image), "statements": texts, "truths": texts}

    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Draws a statement and both scenes."""
        rng = np.random.default_rng([shapes.SEED, *seed, 2])
        *scenes, text, truth = sample_pair(rng, split)
        return {
            "images": [shapes.encode_png(shapes.render(scene, rng)) for scene in scenes],
            "statements": [text],
            "truths": ["true" if truth else "false"],
        }
