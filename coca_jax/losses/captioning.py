"""The captioning loss: next-token cross-entropy over real tokens, in bounded memory.

Each device takes the softmax of a chunk of its own tokens at a time, over its own
part of the vocabulary. Gradients are computed with the loss, while a chunk's logits are there:
three matmuls in all, as many as if all logits were kept. Optax's and Flax's cross-entropies need
all logits at once.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from coca_jax.fields import field, integer, number
from coca_jax.losses.base import WEIGHT, Loss, LossAndMetrics, Values
from coca_jax.losses.collectives import (
    Layout,
    axis_index,
    current_layout,
    in_chunks,
    joined,
    pmax,
    psum,
    scan,
    shard_map,
    spec,
)

CHUNK = 2048  # tokens
NO_TARGET = -1  # an id that no token has


@dataclasses.dataclass(frozen=True)
class CaptioningLoss(Loss):
    """Next-token cross-entropy of the decoder, a mean over the tokens of the batch."""

    weight: float = field(2.0, WEIGHT, number())
    chunk_size: int = field(
        CHUNK, "Tokens whose logits a device holds at a time.", integer(1), resumable=True
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The decoder's features and its last layer; logits are computed in chunks."""
        return "features", "unembedding"

    def __call__(self, output: Any, batch: Values) -> LossAndMetrics:
        """Nats per token, and the share of tokens that are the most probable one."""
        ids = jnp.where(batch["text_mask"], batch["text"], NO_TARGET)
        loss, accuracy = captioning_loss(
            output.features, output.unembedding, ids, NO_TARGET, self.chunk_size
        )
        return loss, {"captioning_accuracy": accuracy}

    def count(self, batch: Values) -> Int[Array, ""]:
        """The number of tokens to predict."""
        return jnp.sum(batch["text_mask"][:, 1:], dtype=jnp.int32)


def captioning_loss(
    features: Float[Array, "n t d"],
    kernel: Float[Array, "d v"],
    ids: Int[Array, "n t"],
    pad_id: int,
    chunk_size: int = CHUNK,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean of -log p(token t + 1 | tokens up to t, image) over all tokens but padding.

    arXiv 2205.01917, section 3.1, which adds up the tokens of a text instead.

    Args:
      features: position t predicts token t + 1; the last position predicts nothing.
      kernel: features @ kernel are the logits, which are computed in float32.
      ids: the texts, begin and end tokens included, padded on the right.
      pad_id: the id of padding, which is never a target.
      chunk_size: number of tokens whose logits a device holds at a time.

    Returns:
      Nats per token over the global batch, 0 if there is no token to predict; and the share of
      tokens that are the most probable one, which has no gradient.
    """
    targets = jnp.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=pad_id)
    return _loss(features, kernel, targets, pad_id, chunk_size, current_layout())


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _loss(features, kernel, targets, pad_id: int, chunk_size: int, layout: Layout):
    return _run(features, kernel, targets, pad_id, chunk_size, layout, False)[:2]


def _forward(features, kernel, targets, pad_id: int, chunk_size: int, layout: Layout):
    loss, accuracy, *gradients = _run(features, kernel, targets, pad_id, chunk_size, layout, True)
    return (loss, accuracy), gradients


def _backward(pad_id: int, chunk_size: int, layout: Layout, gradients: Any, cotangents: Any):
    scaled = ((cotangents[0] * g).astype(g.dtype) for g in gradients)
    return *scaled, None


_loss.defvjp(_forward, _backward)


def _run(features, kernel, targets, pad_id, chunk_size, layout: Layout, differentiate: bool):
    """The loss and accuracy; with `differentiate` the gradients of features and kernel, too."""
    specs = spec(layout.rows, (), ()), spec((), layout.vocab), spec(layout.rows, ())
    on_device = functools.partial(
        _own_tokens,
        pad_id=pad_id,
        chunk_size=chunk_size,
        layout=layout,
        differentiate=differentiate,
    )
    outputs = (spec(), spec(), *specs[: 2 * differentiate])
    return shard_map(on_device, layout, specs, outputs)(features, kernel, targets)


def _own_tokens(features, kernel, targets, pad_id, chunk_size, layout: Layout, differentiate: bool):
    """`_run` on one device: its tokens and its part of the vocabulary."""
    width = features.shape[-1]
    rows = features.reshape(-1, width), targets.reshape(-1), (targets != pad_id).reshape(-1)
    count = psum(jnp.sum(rows[2], dtype=jnp.int32), layout.rows)
    count = jnp.maximum(count, 1).astype(jnp.float32)

    def step(sums, piece):
        x, target, real = piece
        loss, hits, d_logits = _softmax(x, kernel, target, real, layout, differentiate)
        if not differentiate:
            return (sums[0] + loss, sums[1] + hits), None
        d_logits = d_logits.astype(x.dtype)
        d_kernel = jnp.matmul(x.T, d_logits, preferred_element_type=jnp.float32)
        d_x = jnp.matmul(d_logits, kernel.T, preferred_element_type=jnp.float32)
        d_x = (psum(d_x, layout.vocab) / count).astype(x.dtype)
        return (sums[0] + loss, sums[1] + hits, sums[2] + d_kernel), d_x

    start = (jnp.float32(0), jnp.int32(0))
    if differentiate:
        start += (jnp.zeros(kernel.shape, jnp.float32),)
    sums, d_x = scan(step, start, in_chunks(rows, chunk_size))
    sums = psum(sums, layout.rows)
    loss, hits, *d_kernel = (x.astype(jnp.float32) / count for x in sums)
    if not differentiate:
        return loss, hits
    d_x = joined(d_x, len(rows[0])).reshape(features.shape)
    return loss, hits, d_x, d_kernel[0].astype(kernel.dtype)


def _softmax(x, kernel, target, real, layout: Layout, differentiate: bool):
    """A chunk's nats, its hits, and the derivative of the nats by each logit [tokens, v]."""
    logits = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
    own = target[:, None] - kernel.shape[1] * axis_index(layout.vocab)
    words = jax.lax.broadcasted_iota(own.dtype, logits.shape, 1)
    peak = pmax(jnp.max(logits, axis=-1), layout.vocab)
    raised = jnp.exp(logits - peak[:, None])
    # The target is the choice of argmax if it reaches the peak and no word before it does.
    norm, chosen, before = psum(
        (
            jnp.sum(raised, axis=-1),
            jnp.sum(jnp.where(words == own, logits, 0), axis=-1),
            jnp.sum((logits == peak[:, None]) & (words < own), axis=-1),
        ),
        layout.vocab,
    )
    nats = jnp.sum(jnp.where(real, jnp.log(norm) + peak - chosen, 0))
    hits = jnp.sum(real & (chosen == peak) & (before == 0), dtype=jnp.int32)
    if not differentiate:
        return nats, hits, None
    d_logits = raised / norm[:, None] - (words == own).astype(jnp.float32)
    return nats, hits, jnp.where(real[:, None], d_logits, 0)
