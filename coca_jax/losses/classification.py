"""The loss of a classifier: cross-entropy with smoothed labels, over the examples that have one."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def classification_loss(
    logits: Float[Array, "n c"], labels: Int[Array, " n"], smoothing: float = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy over the labelled examples of the global batch.

    Args:
      logits: of the classes.
      labels: their numbers; a negative one is no label.
      smoothing: this share of a label is spread over all classes (arXiv 1512.00567, section 7).

    Returns:
      Nats per labelled example, 0 if there is none; and the share of them whose label has the
      largest logit, which has no gradient.
    """
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.float32), smoothing
    )
    labelled = labels >= 0
    count = jnp.maximum(jnp.sum(labelled, dtype=jnp.int32), 1).astype(jnp.float32)
    nats = jnp.where(labelled, optax.softmax_cross_entropy(logits, targets), 0)
    right = (jnp.argmax(logits, axis=1) == labels) & labelled
    return jnp.sum(nats) / count, jnp.sum(right, dtype=jnp.int32).astype(jnp.float32) / count
