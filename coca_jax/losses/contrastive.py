"""Contrastive losses over all image-text pairs of the global batch.

The similarity matrix is constrained to be sharded by rows over the `batch` axis, so that no device
holds all of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def softmax_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    reduction: str = "sum",
) -> Float[Array, ""]:
    """Cross-entropy of each image among all texts, and of each text among all images.

    -(1/N) sum_i [log softmax_j(s x_i.y_j)_i + log softmax_j(s y_i.x_j)_i], arXiv 2205.01917, eq. 4.

    Args:
      images: unit-length embeddings; row i belongs with row i of `texts`.
      texts: unit-length embeddings.
      scale: 1 / temperature.
      reduction: `sum` of both directions as in the paper, or their `mean` as in CLIP.
    """
    logits = similarities(images, texts, scale)
    matching = scale * jnp.sum(images * texts, axis=-1)
    image_to_text = jnp.mean(jax.nn.logsumexp(logits, axis=1) - matching)
    text_to_image = jnp.mean(jax.nn.logsumexp(logits, axis=0) - matching)
    both = image_to_text + text_to_image
    return both if reduction == "sum" else both / 2


def sigmoid_loss(
    images: Float[Array, "n e"],
    texts: Float[Array, "n e"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, ""]:
    """Binary cross-entropy of every pair, summed over pairs and divided by N (arXiv 2303.15343).

    -(1/N) sum_ij log sigmoid(z_ij (s x_i.y_j + b)), with z_ij = 1 on the diagonal and -1 elsewhere.
    """
    logits = similarities(images, texts, scale) + bias
    matching = scale * jnp.sum(images * texts, axis=-1) + bias
    # -log sigmoid(l) = softplus(l) - l for the pairs that match, softplus(l) for the others.
    return (jnp.sum(jax.nn.softplus(logits)) - jnp.sum(matching)) / images.shape[0]


def contrastive_accuracy(
    images: Float[Array, "n e"], texts: Float[Array, "n e"]
) -> Float[Array, ""]:
    """Share of the batch whose partner is the most similar of all, mean of both directions."""
    logits = similarities(images, texts, jnp.float32(1))
    own = jnp.arange(images.shape[0])
    hits = [jnp.mean(jnp.argmax(logits, axis=axis) == own) for axis in (0, 1)]
    return (hits[0] + hits[1]) / 2


def similarities(
    images: Float[Array, "n e"], texts: Float[Array, "n e"], scale: Float[Array, ""]
) -> Float[Array, "n n"]:
    """Scaled dot products in full float32, image i in row i."""
    logits = scale * jnp.einsum("ie,je->ij", images, texts, precision=jax.lax.Precision.HIGHEST)
    return nn.with_logical_constraint(logits, ("batch", None))
