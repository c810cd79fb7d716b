"""The data sets of this project; importing this package registers them with TFDS."""

from coca_jax.datasets.emoji import Emoji
from coca_jax.datasets.fashion_mnist import FashionMnist
from coca_jax.datasets.shapes import Shapes
from coca_jax.datasets.shapes_clips import ShapesClips
from coca_jax.datasets.shapes_pages import ShapesPages
from coca_jax.datasets.shapes_pairs import ShapesPairs
from coca_jax.datasets.shapes_relations import ShapesRelations

BUILDERS = {
    "emoji": Emoji,
    "fashion_mnist": FashionMnist,
    "shapes": Shapes,
    "shapes_clips": ShapesClips,
    "shapes_pages": ShapesPages,
    "shapes_pairs": ShapesPairs,
    "shapes_relations": ShapesRelations,
}
