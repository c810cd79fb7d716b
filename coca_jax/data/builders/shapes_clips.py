"""Clips of the scenes of `shapes`, in which one shape moves, grows or shrinks, or none does."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from coca_jax.data.builders import shapes
from coca_jax.data.builders.shapes import Scene

COUNTS = {"train": 6_000, "test": 1_000, "test_novel": 1_000}
FRAMES = 8
REACH = 5.0  # pixels from the place's centre, at both ends of the way
# What happens, and how: direction (x, y), and the growth of the radius over the clip.
CHANGES = {
    "moves left": ((-1, 0), 0.0),
    "moves right": ((1, 0), 0.0),
    "moves up": ((0, -1), 0.0),
    "moves down": ((0, 1), 0.0),
    "grows": ((0, 0), 1.0),
    "shrinks": ((0, 0), -1.0),
    "stays": ((0, 0), 0.0),
}


def render_clip(
    scene: Scene, change: str, rng: np.random.Generator
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Draws the frames of a clip in which this happens to one of the scene's shapes."""
    (direction, growth), empty = CHANGES[change], shapes.background(rng)
    drawn = shapes.figures(scene, rng)
    which = rng.integers(len(scene))
    changed, frames = drawn[which], []
    for time in np.linspace(-1, 1, FRAMES):
        drawn[which] = changed._replace(
            centre=changed.centre + REACH * time * np.array(direction),
            radius=changed.radius * 1.6 ** (growth * time),
        )
        frames.append(shapes.draw(empty, drawn))
    return frames


class ShapesClips(tfds.core.GeneratorBasedBuilder):
    """Eight frames of coloured shapes, one of which may move, grow or shrink."""

    VERSION = tfds.core.Version("1.0.0")
    tokenizer_vocab_size = 0  # it has that of `shapes`
    url_infos = None  # nothing to download; looking it up needs a package that TFDS doesn't require

    def __init__(self, **kwargs: Any):
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        image = features.Image(shape=(None, None, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features.FeaturesDict(
                {
                    "frames": features.Sequence(image),
                    "captions": features.Sequence(features.Text()),
                    "label": features.ClassLabel(names=list(CHANGES)),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(COUNTS[split]):
            rng = np.random.default_rng([shapes.SEED, list(COUNTS).index(split), index, 3])
            scene, label = shapes.sample_scene(rng, split), int(rng.integers(len(CHANGES)))
            frames = render_clip(scene, list(CHANGES)[label], rng)
            # What is true of every frame: colours and kinds, not sizes and places.
            caption = shapes.listed([shape.words() for shape in scene])
            yield (
                index,
                {
                    "frames": [shapes.encode_png(frame) for frame in frames],
                    "captions": [caption],
                    "label": label,
                },
            )
