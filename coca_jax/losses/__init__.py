"""Losses: objects chosen by the configuration over pure functions, defined on the global batch."""

from coca_jax.losses.base import Loss, weighted_sum
from coca_jax.losses.captioning import captioning_loss
from coca_jax.losses.classification import classification_loss
from coca_jax.losses.contrastive import sigmoid_loss, softmax_loss
from coca_jax.losses.distillation import distillation_loss
from coca_jax.losses.registry import losses, outputs_read, trained_losses

__all__ = [
    "Loss",
    "captioning_loss",
    "classification_loss",
    "distillation_loss",
    "losses",
    "outputs_read",
    "sigmoid_loss",
    "softmax_loss",
    "trained_losses",
    "weighted_sum",
]
