"""Clips of the scenes of `shapes`, in which one shape may move, grow or shrink."""

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from coca_jax.datasets import shapes
from coca_jax.datasets.base import Drawn
from coca_jax.datasets.shapes import Scene

FRAMES = 8
REACH = 5.0  # pixels from the place's center to both ends of a motion
# By name: direction (x, y), and the growth of the radius over the clip.
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
    """Draws the frames of a clip in which one of the scene's shapes changes."""
    (direction, growth), empty = CHANGES[change], shapes.background(rng)
    drawn = shapes.figures(scene, rng)
    which = rng.integers(len(scene))
    changed, frames = drawn[which], []
    for time in np.linspace(-1, 1, FRAMES):
        drawn[which] = changed._replace(
            center=changed.center + REACH * time * np.array(direction),
            radius=changed.radius * 1.6 ** (growth * time),
        )
        frames.append(shapes.draw(empty, drawn))
    return frames


class ShapesClips(Drawn):
    """Eight frames of colored shapes, one of which may move, grow or shrink."""

    VERSION = tfds.core.Version("1.0.0")
    size_mib = 44
    counts: ClassVar = {"train": 6_000, "test": 1_000, "test_novel": 1_000}

    def features(self) -> dict[str, Any]:
        """Frames, a list of one caption, and the change as the label."""
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        return {
            "frames": tfds.features.Sequence(image),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "label": tfds.features.ClassLabel(names=list(CHANGES)),
        }

    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Draws a scene and a change of it."""
        rng = np.random.default_rng([shapes.SEED, *seed, 3])
        scene, label = shapes.sample_scene(rng, split), int(rng.integers(len(CHANGES)))
        frames = render_clip(scene, list(CHANGES)[label], rng)
        return {
            "frames": [shapes.encode_png(frame) for frame in frames],
            # True of every frame: colors and kinds, not sizes and places.
            "captions": [shapes.listed([shape.words() for shape in scene])],
            "label": label,
        }
