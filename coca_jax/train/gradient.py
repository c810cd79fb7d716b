"""The gradient of the whole batch's objective, in one pass or by micro-batches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from coca_jax.losses import Loss, outputs_read, weighted_sum
from coca_jax.losses.distillation import TEACHER_IMAGES, TEACHER_TEXTS
from coca_jax.models import CoCa, CoCaOutput, lora, normalize_pixels
from coca_jax.models.coca import PER_EXAMPLE
from coca_jax.models.inputs import SEGMENTS, call_inputs, with_masks

# image: uint8 [n, h, w, 3], or [n, images, h, w, 3], or `Patches`; text: int32 [n, t], or packed
# [rows, t], with text_segment_ids of the same shape; for a head label and prefix_length (the tokens
# that it may read): int32 [n]; group (64 bits, the same for pairs that match each other):
# int32 [n, 2]; negative_text (wrong captions; only padding: none): int32 [n, t]; teacher_images,
# teacher_texts: float32 [n, k]; counters of replaced examples: int32 [n]
Batch = dict[str, Any]
Metrics = dict[str, Array]
DRAWS = 1  # folded into a step's key for the draw of hard negatives
INPUTS = (
    *("image", "text", SEGMENTS, "label", "prefix_length", "group", "negative_text"),
    *(TEACHER_IMAGES, TEACHER_TEXTS),
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The weighted sum of losses of a model's outputs, a function of its parameters."""

    model: CoCa
    losses: Mapping[str, Loss]
    trained: Any = None  # tree like the parameters: False stops the gradient; None: all are trained
    lora_scale: float = 0.0
    frozen: Any = None  # parameters without a gradient, with LoRA

    def forward(self, params: Any, batch: Batch, key: jax.Array) -> CoCaOutput:
        """The model's outputs for a batch; `key` is for dropout and the patches left out."""
        image = self.model.config.image
        pixels = normalize_pixels(batch["image"], image.mean, image.std)
        if self.trained is not None:
            params = jax.tree.map(_trained_only, params, self.trained)
        inputs, rngs = call_inputs(self.model.config, batch), {"dropout": key}
        variables = lora.variables(self.frozen, params, self.lora_scale)
        return self.model.apply(variables, pixels, batch["text"], **inputs, rngs=rngs)

    def with_masks(self, batch: Batch, key: Any) -> Batch:
        """The global batch with what is computed of it for the model and the losses.

        Args:
          batch: its arrays.
          key: of hard negatives.
        """
        return with_masks(self.model.config, batch, key)

    @property
    def together(self) -> int:
        """Consecutive texts that are in one micro-batch: a block of hard negatives."""
        return max(1, self.model.config.matching_block)


def gradient(
    objective: Objective, params: Any, batch: Batch, key: jax.Array
) -> tuple[Any, Metrics]:
    """The objective's gradient with respect to the parameters and its metrics, in one pass.

    Args:
      objective: the losses to minimize.
      params: the model's parameters.
      batch: the global batch.
      key: for dropout, the patches that are left out, and the draws of hard negatives.
    """
    batch = objective.with_masks(batch, jax.random.fold_in(key, DRAWS))

    def total(params: Any) -> tuple[jax.Array, Metrics]:
        return weighted_sum(objective.losses, objective.forward(params, batch, key), batch)

    (value, metrics), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return gradients, {"loss": value} | metrics


def accumulated_gradient(
    objective: Objective, params: Any, batch: Batch, key: jax.Array, count: int
) -> tuple[Any, Metrics]:
    """`gradient` with the activations of one of `count` micro-batches at a time (GradCache).

    arXiv 2101.06983: a first pass computes the outputs that losses of the whole batch read, for
    all micro-batches, and from them these losses' gradients of the outputs. A second pass runs each
    micro-batch again and carries these back to the parameters, together with the gradients of the
    micro-batch's share of all other losses.
    """
    batch = {name: batch[name] for name in INPUTS if name in batch}
    batch = objective.with_masks(batch, jax.random.fold_in(key, DRAWS))
    rows = len(batch["text"]) // objective.together
    pieces = jax.tree.map(lambda x: split(x, count, rows), batch), jax.random.split(key, count)
    whole = {name: loss for name, loss in objective.losses.items() if loss.whole_batch}
    means = {name: loss for name, loss in objective.losses.items() if not loss.whole_batch}
    reads = outputs_read(whole)

    def read(_, piece):
        return None, objective.forward(params, *piece).only(reads)

    outputs = jax.lax.scan(read, None, pieces)[1]
    value, cotangents, metrics = _whole_batch(whole, outputs, batch, rows)
    counts = {name: loss.count(batch) for name, loss in means.items()}

    def carry_back(total: Any, piece):
        micro, micro_key, cotangent = piece

        def surrogate(params: Any) -> tuple[jax.Array, Metrics]:
            output = objective.forward(params, micro, micro_key)
            linear = jax.tree.map(lambda c, o: jnp.sum(c * o), cotangent, output.only(reads))
            share, metrics = _share(means, counts, output, micro)
            return sum(jax.tree.leaves(linear)) + share, metrics | {"loss": share}

        gradients, metrics = jax.grad(surrogate, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, gradients), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, shares = jax.lax.scan(carry_back, zeros, (*pieces, cotangents))
    shares = jax.tree.map(jnp.sum, shares)
    return gradients, metrics | shares | {"loss": value + shares["loss"]}


def _whole_batch(
    losses: Mapping[str, Loss], outputs: CoCaOutput, batch: Batch, rows: int
) -> tuple[jax.Array, CoCaOutput, Metrics]:
    """Losses of the whole batch, their gradients of the stacked outputs, and their metrics."""
    value, pullback, metrics = jax.vjp(
        lambda o: weighted_sum(losses, joined(o, rows), batch),
        outputs,
        has_aux=True,
    )
    return value, pullback(jnp.ones_like(value))[0], metrics


def _share(
    losses: Mapping[str, Loss], counts: Metrics, output: CoCaOutput, micro: Batch
) -> tuple[jax.Array, Metrics]:
    """The part of the whole batch's losses, with these counts, that is a micro-batch's."""
    total, metrics = jnp.float32(0), {}
    for name, loss in losses.items():
        part, whole = (x.astype(jnp.float32) for x in (loss.count(micro), counts[name]))
        share = part / jnp.maximum(whole, 1)
        value, watched = weighted_sum({name: loss}, output, micro)
        total += share * value
        metrics |= {key: share * x for key, x in watched.items()}
    return total, metrics


def _trained_only(param: jax.Array, trained: bool) -> jax.Array:
    return param if trained else jax.lax.stop_gradient(param)


def split(x: Shaped[Array, "b *rest"], count: int, rows: int) -> Shaped[Array, "count micro *rest"]:
    """Micro-batches on a new leading axis; each takes rows of every shard, so that none move.

    What belongs to one of the `rows`, such as the images of packed texts or the pairs of a block of
    hard negatives, stays together.
    """
    together, micro = len(x) // rows, len(x) // count
    x = x.reshape(rows // count, count, together, *x.shape[1:]).swapaxes(0, 1)
    x = x.reshape(count, micro, *x.shape[3:])
    return nn.with_logical_constraint(x, (None, "batch") + (None,) * (x.ndim - 2))


def joined(outputs: CoCaOutput, rows: int) -> CoCaOutput:
    """Outputs of all micro-batches as those of one batch; what has no rows is the same in each."""

    def in_order(x: jax.Array) -> jax.Array:
        count = x.shape[0]
        x = x.reshape(count, rows // count, -1, *x.shape[2:]).swapaxes(0, 1)
        x = x.reshape(-1, *x.shape[3:])
        return nn.with_logical_constraint(x, ("batch",) + (None,) * (x.ndim - 1))

    def join(name: str, x: Any) -> Any:
        return in_order(x) if name in PER_EXAMPLE else jnp.mean(x, axis=0)

    values = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    return outputs.replace(**{k: join(k, x) for k, x in values.items() if x is not None})
