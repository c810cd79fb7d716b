"""Image-text matching: whether an image and a text belong together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from coca_jax.fields import field, integer, number
from coca_jax.losses.base import WEIGHT, Loss, LossAndMetrics, Values


@dataclasses.dataclass(frozen=True)
class MatchingLoss(Loss):
    """Binary cross-entropy of a head on the decoder's output at the end of the text.

    As in ALBEF (arXiv 2107.07651) and BLIP (arXiv 2201.12086): each pair of the batch, its image
    with a hard negative text, its text with a hard negative image, and its image with the wrong
    caption that the data give, if there is one. It costs two or three more passes of the decoder's
    second half.
    """

    weight: float = field(0.0, WEIGHT, number())
    block_size: int = field(
        32,
        "Hard negatives are drawn among this many consecutive pairs of the batch; "
        "`train.batch_size` is a multiple of it for each device and micro-batch.",
        integer(2, 2**16),
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The head's logits, and the embeddings by which negatives are drawn."""
        return "matching_logits", "matching_mask", "image_embeddings", "text_embeddings"

    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """The mean over pairs of the mean over what each is judged with, and the accuracy."""
        logits, mask = output.matching_logits, output.matching_mask.astype(jnp.float32)
        right = (jnp.arange(logits.shape[1]) == 0)[None]
        nats = jax.nn.softplus(jnp.where(right, -logits, logits))
        hits = ((logits > 0) == right).astype(jnp.float32)
        weights = mask / jnp.sum(mask, axis=1, keepdims=True) / len(mask)
        return jnp.sum(weights * nats), {"matching_accuracy": jnp.sum(weights * hits)}
