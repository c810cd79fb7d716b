"""The captioning loss: next-token cross-entropy over real tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def captioning_loss(
    logits: Float[Array, "n t v"], ids: Int[Array, "n t"], pad_id: int
) -> Float[Array, ""]:
    """Mean of -log p(token t + 1 | tokens up to t, image) over all tokens that are no padding.

    Args:
      logits: position t predicts token t + 1; the last position predicts nothing.
      ids: the texts, begin and end tokens included, padded on the right.
      pad_id: what the padding is; it is never a target.

    Returns:
      Nats per token over the global batch; 0 if there is no token to predict.
    """
    targets, real = _targets(ids, pad_id)
    logits = logits[:, :-1]
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(jnp.where(real, nats, 0)) / jnp.maximum(jnp.sum(real), 1)


def captioning_accuracy(
    logits: Float[Array, "n t v"], ids: Int[Array, "n t"], pad_id: int
) -> Float[Array, ""]:
    """Share of real next tokens that are the most probable one."""
    targets, real = _targets(ids, pad_id)
    hits = jnp.argmax(logits[:, :-1], axis=-1) == targets
    return jnp.sum(hits & real) / jnp.maximum(jnp.sum(real), 1)


def _targets(ids: Int[Array, "n t"], pad_id: int):
    return ids[:, 1:], ids[:, 1:] != pad_id
