"""What is minimised: the configured losses of the global batch, weighted and added.

arXiv 2205.01917, equation 5. A loss that is not trained counts as 0 and has no metrics.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from coca_jax import losses
from coca_jax.models import CoCaOutput

Metrics = dict[str, Array]


def contrastive_objective(
    output: CoCaOutput, config: ConfigDict
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted contrastive loss and what is worth watching of it."""
    images, texts, scale = output.image_embeddings, output.text_embeddings, output.logit_scale
    if images is None:
        return jnp.float32(0), {}
    if output.logit_bias is None:
        loss, accuracy = losses.softmax_loss(
            images, texts, scale, config.reduction, config.chunk_size
        )
    else:
        loss, accuracy = losses.sigmoid_loss(
            images, texts, scale, output.logit_bias, config.chunk_size
        )
    return config.weight * loss, {
        "contrastive_loss": loss,
        "contrastive_accuracy": accuracy,
        "temperature": 1 / scale,
    }


def captioning_objective(
    output: CoCaOutput, ids: Int[Array, "n t"], pad_id: int, config: ConfigDict
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted captioning loss and what is worth watching of it."""
    if output.unembedding is None:
        return jnp.float32(0), {}
    loss, accuracy = losses.captioning_loss(
        output.features, output.unembedding, ids, pad_id, config.chunk_size
    )
    return config.weight * loss, {"captioning_loss": loss, "captioning_accuracy": accuracy}


def classification_objective(
    output: CoCaOutput, labels: Int[Array, " n"] | None, config: ConfigDict
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted loss of the head, if there is one, and what is worth watching of it."""
    if output.class_logits is None:
        return jnp.float32(0), {}
    loss, accuracy = losses.classification_loss(output.class_logits, labels, config.label_smoothing)
    return config.weight * loss, {
        "classification_loss": loss,
        "classification_accuracy": accuracy,
    }
