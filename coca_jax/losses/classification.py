"""The loss of a classifier: cross-entropy with smoothed labels, over the labeled examples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from coca_jax.fields import field, number
from coca_jax.losses.base import WEIGHT, Loss, LossAndMetrics, Values


@dataclasses.dataclass(frozen=True)
class ClassificationLoss(Loss):
    """Cross-entropy of the head, a mean over the labeled examples."""

    weight: float = field(0.0, WEIGHT, number())
    label_smoothing: float = field(
        0.0, "Share of a label that is spread over all classes.", number(0, 1, below=True)
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The head's logits."""
        return ("class_logits",)

    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """Nats per labeled example, and the share of them that is classified correctly."""
        loss, accuracy = classification_loss(
            output.class_logits, batch["label"], self.label_smoothing
        )
        return loss, {"classification_accuracy": accuracy}

    def count(self, batch: Values) -> Int[Array, ""]:
        """The number of labeled examples."""
        return jnp.sum(batch["label"] >= 0, dtype=jnp.int32)


def classification_loss(
    logits: Float[Array, "n c"], labels: Int[Array, " n"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy over the labeled examples of the global batch.

    Args:
      logits: one for each class.
      labels: class numbers; a negative one is not a label.
      smoothing: share of a label that is spread over all classes (arXiv 1512.00567, section 7).

    Returns:
      Nats per labeled example, 0 if there is none; and the share of labeled examples whose label
      has the largest logit, which has no gradient.
    """
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.float32), smoothing
    )
    labeled = labels >= 0
    count = jnp.maximum(jnp.sum(labeled, dtype=jnp.int32), 1).astype(jnp.float32)
    nats = jnp.where(labeled, optax.softmax_cross_entropy(logits, targets), 0)
    hits = (jax.lax.argmax(logits, 1, jnp.int32) == labels) & labeled
    return jnp.sum(nats) / count, jnp.sum(hits, dtype=jnp.int32).astype(jnp.float32) / count
