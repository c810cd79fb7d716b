"""Pairs of the scenes of `shapes`, each with a statement about both that is true or false.

As in NLVR2. Each statement is true of half of the pairs it is made about, so that the text alone
tells nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from coca_jax.data.builders import shapes
from coca_jax.data.builders.shapes import COLOURS, KINDS, Scene

COUNTS = {"train": 20_000, "test": 2_000, "test_novel": 2_000}


class Statement(NamedTuple):
    """A text about two scenes, and when it is true."""

    text: str
    holds: Callable[[Scene, Scene], bool]


def _has(**wanted: int) -> Callable[[Scene], bool]:
    return lambda scene: any(
        all(getattr(shape, name) == value for name, value in wanted.items()) for shape in scene
    )


def _about(name: str, has: Callable[[Scene], bool]) -> list[Statement]:
    return [
        Statement(f"both show {name}", lambda left, right: has(left) and has(right)),
        Statement(f"only the left shows {name}", lambda left, right: has(left) and not has(right)),
        Statement(f"only the right shows {name}", lambda left, right: has(right) and not has(left)),
    ]


STATEMENTS = [
    *(s for i, kind in enumerate(KINDS) for s in _about(shapes.with_article(kind), _has(kind=i))),
    *(
        s
        for i, colour in enumerate(COLOURS)
        for s in _about(f"{shapes.with_article(colour)} one", _has(colour=i))
    ),
    Statement("the left shows more", lambda left, right: len(left) > len(right)),
    Statement("the right shows more", lambda left, right: len(left) < len(right)),
    Statement("both show as many", lambda left, right: len(left) == len(right)),
]


def sample_pair(rng: np.random.Generator, split: str) -> tuple[Scene, Scene, str, bool]:
    """Draws a statement, whether it is true, and two scenes of a split of which it is so."""
    statement, truth = STATEMENTS[rng.integers(len(STATEMENTS))], bool(rng.integers(2))
    while True:
        left, right = (shapes.sample_scene(rng, split) for _ in range(2))
        if statement.holds(left, right) == truth:
            return left, right, statement.text, truth


class ShapesPairs(tfds.core.GeneratorBasedBuilder):
    """Two scenes of coloured shapes, and a statement about them that is true or false."""

    VERSION = tfds.core.Version("1.0.0")
    tokenizer_vocab_size = 0  # it has that of `shapes`
    url_infos = None  # nothing to download; looking it up needs a package that TFDS doesn't require

    def __init__(self, **kwargs: Any):
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        image, text = features.Image(shape=(None, None, 3), encoding_format="png"), features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features.FeaturesDict(
                {
                    "images": features.Sequence(image),
                    "statements": features.Sequence(text),
                    "truths": features.Sequence(text),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(COUNTS[split]):
            rng = np.random.default_rng([shapes.SEED, list(COUNTS).index(split), index, 2])
            *scenes, text, truth = sample_pair(rng, split)
            yield (
                index,
                {
                    "images": [shapes.encode_png(shapes.render(s, rng)) for s in scenes],
                    "statements": [text],
                    "truths": ["true" if truth else "false"],
                },
            )
