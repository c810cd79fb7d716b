"""The gradient of the whole batch's objective, in one pass or by micro-batches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from coca_jax.models import CoCa, CoCaOutput, normalize_pixels
from coca_jax.train.objective import Metrics, captioning_objective, contrastive_objective

# image: uint8 [n, h, w, 3]; text: int32 [n, t]; counters of replaced examples: int32 [n]
Batch = dict[str, jax.Array]


def gradient(
    model: CoCa, config: ConfigDict, params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Metrics]:
    """Gradient of the batch's objective, and its metrics; `key` is of dropout."""

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        output = _forward(model, params, batch, key)
        contrastive, watched = contrastive_objective(output, config.loss.contrastive)
        captioning, more = captioning_objective(
            output, batch["text"], model.config.text.pad_id, config.loss.captioning
        )
        return contrastive + captioning, watched | more

    (total, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return gradients, {"loss": total} | metrics


def accumulated_gradient(
    model: CoCa, config: ConfigDict, params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Metrics]:
    """The same gradient with activations of one micro-batch at a time (arXiv 2101.06983).

    A first pass makes the embeddings of all micro-batches, from which follows the gradient of the
    whole batch's contrastive loss by each embedding; a second pass runs every micro-batch again
    and carries its share of that gradient, and of its captions', back to the parameters.
    """
    count, pad_id = config.train.accumulate, model.config.text.pad_id
    pieces = jax.tree.map(lambda x: _split(x, count), {k: batch[k] for k in ("image", "text")})
    keys = jax.random.split(key, count)
    tokens = jnp.maximum(jnp.sum(batch["text"][:, 1:] != pad_id), 1)

    def embed(_, piece):
        return None, _forward(model, params, *piece).without_captions()

    outputs = jax.lax.scan(embed, None, (pieces, keys))[1]
    contrastive, pullback, metrics = jax.vjp(
        lambda o: contrastive_objective(_joined(o), config.loss.contrastive), outputs, has_aux=True
    )
    cotangents = pullback(jnp.ones_like(contrastive))[0]

    def carry_back(total: Any, piece):
        micro, micro_key, cotangent = piece
        share = jnp.sum(micro["text"][:, 1:] != pad_id) / tokens

        def surrogate(params: Any) -> tuple[jax.Array, Metrics]:
            output = _forward(model, params, micro, micro_key)
            linear = jax.tree.map(lambda c, o: jnp.sum(c * o), cotangent, output.without_captions())
            captioning, watched = captioning_objective(
                output, micro["text"], pad_id, config.loss.captioning
            )
            watched = jax.tree.map(lambda x: share * x, {"loss": captioning} | watched)
            return sum(jax.tree.leaves(linear)) + share * captioning, watched

        gradients, watched = jax.grad(surrogate, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, gradients), watched

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, watched = jax.lax.scan(carry_back, zeros, (pieces, keys, cotangents))
    watched = jax.tree.map(jnp.sum, watched)
    return gradients, metrics | watched | {"loss": contrastive + watched["loss"]}


def _forward(model: CoCa, params: Any, batch: Batch, key: jax.Array) -> CoCaOutput:
    image = model.config.image
    pixels = normalize_pixels(batch["image"], image.mean, image.std)
    return model.apply({"params": params}, pixels, batch["text"], rngs={"dropout": key})


def _split(x: jax.Array, count: int) -> jax.Array:
    """Micro-batches on a new leading axis; each takes rows of every shard, so that none move."""
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    return nn.with_logical_constraint(x, (None, "batch") + (None,) * (x.ndim - 2))


def _joined(outputs: CoCaOutput) -> CoCaOutput:
    """Embeddings of all micro-batches in one batch; scale and bias are the same in each."""

    def rows(x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1).reshape(-1, x.shape[-1])
        return nn.with_logical_constraint(x, ("batch", None))

    return jax.tree.map(lambda x: rows(x) if x.ndim == 3 else jnp.mean(x), outputs)
