"""The losses by name, and those that a configuration trains with."""

from collections.abc import Mapping
from typing import Any

from coca_jax.losses.base import Loss
from coca_jax.registry import Registry

losses: Registry[type[Loss]] = Registry(
    "loss",
    {
        "contrastive": "coca_jax.losses.contrastive:ContrastiveLoss",
        "captioning": "coca_jax.losses.captioning:CaptioningLoss",
        "distillation": "coca_jax.losses.distillation:DistillationLoss",
        "matching": "coca_jax.losses.matching:MatchingLoss",
        "classification": "coca_jax.losses.classification:ClassificationLoss",
    },
)


def outputs_read(losses: Mapping[str, Loss]) -> set[str]:
    """The fields of the model's output that any of these losses reads, where they exist."""
    return {name for loss in losses.values() for name in (*loss.reads, *loss.reads_if_there)}


def trained_losses(sections: Mapping[str, Any]) -> dict[str, Loss]:
    """The losses whose weight is not 0, in the registry's order.

    Args:
      sections: each loss by its name; one that is not registered in this process is left out.
    """
    registered = {name: sections[name] for name in losses if name in sections}
    return {name: loss for name, loss in registered.items() if loss.weight}
