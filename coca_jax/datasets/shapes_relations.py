"""Scenes of two and three colored shapes, with captions that differ from wrong ones in word order.

A caption says how shapes stand to each other, how many there are, or which one is missing. Its
negative has the same words, in the plural where a number asks for it: two shapes have changed
places in the sentence, so that a model that reads a bag of words cannot tell which one is true
(arXiv 2210.01936).
"""

import itertools
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from coca_jax.datasets import shapes
from coca_jax.datasets.base import Drawn
from coca_jax.datasets.shapes import CLASS_NAMES, KINDS, NOVEL, PLACES, SEEN, SIZES, Scene, Shape

# The axis (0: rows), and the sign of the difference of the first shape's row or column.
RELATIONS = {"left of": (1, -1), "right of": (1, 1), "higher than": (0, -1), "lower than": (0, 1)}
TWO_SHARE, TWINS_SHARE = 0.4, 0.3  # shares of scenes of two shapes, and of three with two alike
# Share of scenes with a negation among their captions. Half of its words are about what is not
# there, which says little, and its negative is also true of other images of a batch.
NEGATION_SHARE = 0.25


class Pair(NamedTuple):
    """A true caption, and a wrong one of the same words."""

    text: str
    foil: str


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """Draws a scene of a split, its shapes in reading order; two of three may be of one class."""
    while True:
        draw = rng.random()
        count, twins = 2 + (draw >= TWO_SHARE), 0 <= draw - TWO_SHARE < TWINS_SHARE
        combinations = rng.choice(SEEN, count, replace=False)
        if split == "test_novel":
            combinations[rng.integers(count)] = rng.choice(NOVEL)
        if twins:
            combinations[0] = combinations[1]
        places = np.sort(rng.choice(len(PLACES), count, replace=False)).tolist()
        sizes = rng.integers(len(SIZES), size=count).tolist()
        scene = tuple(
            Shape(place, size, *divmod(combination, len(KINDS)))
            for place, size, combination in zip(
                places, sizes, rng.permutation(combinations).tolist(), strict=True
            )
        )
        if shapes.split_of(scene) == split:
            return scene


def stands(first: Shape, relation: str, second: Shape) -> bool:
    """Whether the first shape stands in this relation to the second one."""
    axis, sign = RELATIONS[relation]
    return sign * (divmod(first.place, 2)[axis] - divmod(second.place, 2)[axis]) > 0


def relations(scene: Scene) -> Iterator[tuple[Shape, str, Shape]]:
    """Relations of shapes by their classes, which hold one way round and not the other."""
    for (first, second), relation in itertools.product(itertools.permutations(scene, 2), RELATIONS):
        alike = [[s for s in scene if s.combination == of.combination] for of in (first, second)]
        swapped = (stands(b, relation, a) for a, b in itertools.product(*alike))
        if stands(first, relation, second) and not any(swapped):
            yield first, relation, second


def relation_pairs(scene: Scene, rng: np.random.Generator) -> list[Pair]:
    """Two relations of two shapes; of three of different classes also a chain of two relations.

    Where two shapes of a class stand to the third one alike, both may have the same words.

    The chain, such as "a red circle left of a blue star and higher than a green ring", comes first.
    """
    every = list(relations(scene))
    pairs = []
    for index in rng.choice(len(every), 2, replace=False).tolist():
        first, relation, second = every[index]
        pairs.append(_swapped(f"{{}} {relation} {{}}", first, second))
    if len({shape.combination for shape in scene}) == 3:
        chains = [
            (one, other)
            for one, other in itertools.permutations(every, 2)
            if one[0] == other[0] and one[2] != other[2]
        ]
        (first, relation, second), (_, more, third) = chains[rng.integers(len(chains))]
        template = f"{{}} {relation} {{}} and {more} {third.words()}"
        pairs.insert(0, _swapped(template, first, second))
    return pairs


def count_pairs(scene: Scene, rng: np.random.Generator) -> list[Pair]:
    """The number of each class where there are two shapes of one and one of another; else none."""
    numbers, counts = np.unique([shape.combination for shape in scene], return_counts=True)
    if len(scene) != 3 or len(numbers) != 2:
        return []
    order = rng.permutation(2)
    names, counts = [CLASS_NAMES[i] for i in numbers[order]], counts[order]
    text, foil = (
        " and ".join(_counted(*item) for item in zip(names, n, strict=True))
        for n in (counts.tolist(), counts[::-1].tolist())
    )
    return [Pair(text, foil)]


def negation_pairs(scene: Scene, rng: np.random.Generator) -> list[Pair]:
    """A shape that is there, and one that is not."""
    shown = [shape.combination for shape in scene]
    # Captions about held-out combinations in training would show that these never occur.
    absent = [combination for combination in SEEN if combination not in shown]
    here, gone = CLASS_NAMES[rng.choice(shown)], CLASS_NAMES[rng.choice(absent)]
    article = shapes.with_article
    return [Pair(f"{article(here)} and no {gone}", f"{article(gone)} and no {here}")]


def _swapped(template: str, first: Shape, second: Shape) -> Pair:
    words = first.words(), second.words()
    return Pair(template.format(*words), template.format(*reversed(words)))


def _counted(name: str, count: int) -> str:
    if count == 1:
        return shapes.with_article(name)
    return f"two {name}{'es' if name.endswith('s') else 's'}"


class ShapesRelations(Drawn):
    """Scenes of two and three colored shapes: captions of relations, counts and negations.

    Each caption has a wrong one of the same words in `negatives`.
    """

    VERSION = tfds.core.Version("2.1.0")
    size_mib = 33
    tokenizer_vocab_size = 400
    counts: ClassVar = {"train": 20_000, "test": 2_000, "test_novel": 2_000}

    def features(self) -> dict[str, Any]:
        """An image, its captions with their negatives, and texts with foils by kind."""
        texts = tfds.features.Sequence(tfds.features.Text())
        kinds = [f"{kind}_{of}" for kind in KINDS_OF_TEXT for of in ("texts", "foils")]
        return {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            **dict.fromkeys(["captions", "negatives", *kinds], texts),
        }

    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Draws a scene and makes its texts."""
        rng = np.random.default_rng([shapes.SEED, *seed, 4])
        scene = sample_scene(rng, split)
        pairs = {kind: make(scene, rng) for kind, make in KINDS_OF_TEXT.items()}
        every = pairs["count"] + pairs["relation"]
        if rng.random() < NEGATION_SHARE:
            every += pairs["negation"]
        fields = {"captions": [p.text for p in every], "negatives": [p.foil for p in every]}
        for kind, of_kind in pairs.items():
            fields[f"{kind}_texts"] = [pair.text for pair in of_kind]
            fields[f"{kind}_foils"] = [pair.foil for pair in of_kind]
        return {"image": shapes.encode_png(shapes.render(scene, rng)), **fields}


KINDS_OF_TEXT = {
    "relation": relation_pairs,
    "count": count_pairs,
    "negation": negation_pairs,
}
