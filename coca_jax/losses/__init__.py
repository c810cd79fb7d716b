"""Losses as pure functions of arrays, defined on the global batch."""

from coca_jax.losses.captioning import captioning_loss
from coca_jax.losses.classification import classification_loss
from coca_jax.losses.contrastive import sigmoid_loss, softmax_loss

__all__ = [
    "captioning_loss",
    "classification_loss",
    "sigmoid_loss",
    "softmax_loss",
]
