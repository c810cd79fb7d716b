"""A model ready for use: `coca_jax.load`, and what it returns."""

from coca_jax.inference.loading import Checkpoint, find_checkpoint, load, load_from, restore_params
from coca_jax.inference.model import Caption, LoadedModel

__all__ = [
    "Caption",
    "Checkpoint",
    "LoadedModel",
    "find_checkpoint",
    "load",
    "load_from",
    "restore_params",
]
