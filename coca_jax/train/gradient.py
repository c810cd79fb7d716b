"""The gradient of the whole batch's objective, in one pass or by micro-batches."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from coca_jax.models import CoCa, CoCaOutput, normalize_pixels
from coca_jax.train.objective import (
    Metrics,
    captioning_objective,
    classification_objective,
    contrastive_objective,
)
from coca_jax.train.optimizer import stop_frozen

# image: uint8 [n, h, w, 3], or [n, pictures, h, w, 3]; text: int32 [n, t]; for a head label and
# read (how many tokens it may read): int32 [n]; counters of replaced examples: int32 [n]
Batch = dict[str, jax.Array]
INPUTS = ("image", "text", "label", "prefix_length")


def gradient(
    model: CoCa, config: ConfigDict, params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Metrics]:
    """Gradient of the batch's objective, and its metrics; `key` is of dropout."""

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        output = _forward(model, config, params, batch, key)
        contrastive, watched = contrastive_objective(output, config.loss.contrastive)
        captioning, more = captioning_objective(
            output, batch["text"], model.config.text.pad_id, config.loss.captioning
        )
        classification, others = classification_objective(
            output, batch.get("label"), config.loss.classification
        )
        return contrastive + captioning + classification, watched | more | others

    (total, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return gradients, {"loss": total} | metrics


def accumulated_gradient(
    model: CoCa, config: ConfigDict, params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Metrics]:
    """The same gradient with activations of one micro-batch at a time (arXiv 2101.06983).

    A first pass makes the embeddings of all micro-batches, from which follows the gradient of the
    whole batch's contrastive loss by each embedding; a second pass runs every micro-batch again
    and carries its share of that gradient, and of its captions' and labels', back to the
    parameters.
    """
    count, pad_id = config.train.grad_accum_steps, model.config.text.pad_id
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    pieces = jax.tree.map(lambda x: _split(x, count), inputs)
    keys = jax.random.split(key, count)
    whole = _counts(inputs, pad_id)

    def embed(_, piece):
        return None, _forward(model, config, params, *piece).without_captions()

    outputs = jax.lax.scan(embed, None, (pieces, keys))[1]
    contrastive, pullback, metrics = jax.vjp(
        lambda o: contrastive_objective(_joined(o), config.loss.contrastive), outputs, has_aux=True
    )
    cotangents = pullback(jnp.ones_like(contrastive))[0]

    def carry_back(total: Any, piece):
        micro, micro_key, cotangent = piece
        of_tokens, of_labels = _counts(micro, pad_id) / jnp.maximum(whole, 1)

        def surrogate(params: Any) -> tuple[jax.Array, Metrics]:
            output = _forward(model, config, params, micro, micro_key)
            linear = jax.tree.map(lambda c, o: jnp.sum(c * o), cotangent, output.without_captions())
            captioning, watched = captioning_objective(
                output, micro["text"], pad_id, config.loss.captioning
            )
            classification, others = classification_objective(
                output, micro.get("label"), config.loss.classification
            )
            watched = jax.tree.map(lambda x: of_tokens * x, watched)
            watched |= jax.tree.map(lambda x: of_labels * x, others)
            local = of_tokens * captioning + of_labels * classification
            return sum(jax.tree.leaves(linear)) + local, watched | {"loss": local}

        gradients, watched = jax.grad(surrogate, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, gradients), watched

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, watched = jax.lax.scan(carry_back, zeros, (pieces, keys, cotangents))
    watched = jax.tree.map(jnp.sum, watched)
    return gradients, metrics | watched | {"loss": contrastive + watched["loss"]}


def _forward(
    model: CoCa, config: ConfigDict, params: Any, batch: Batch, key: jax.Array
) -> CoCaOutput:
    image = model.config.image
    pixels = normalize_pixels(batch["image"], image.mean, image.std)
    params = stop_frozen(params, config.optimizer)
    read = () if model.config.head is None else (batch["prefix_length"],)
    return model.apply({"params": params}, pixels, batch["text"], *read, rngs={"dropout": key})


def _counts(batch: Batch, pad_id: int) -> jax.Array:
    """How many tokens are to be predicted, and how many examples have a label."""
    tokens = jnp.sum(batch["text"][:, 1:] != pad_id, dtype=jnp.int32)
    labels = jnp.sum(batch["label"] >= 0, dtype=jnp.int32) if "label" in batch else 0 * tokens
    return jnp.stack([tokens, labels]).astype(jnp.float32)


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
