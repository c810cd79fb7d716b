"""The data sets of this project; importing this package registers them with TFDS."""

from coca_jax.data.builders.emoji import Emoji
from coca_jax.data.builders.shapes import Shapes

BUILDERS = {"emoji": Emoji, "shapes": Shapes}
