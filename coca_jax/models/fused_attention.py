"""Fused attention for TPUs: a Pallas kernel each for the forward and the backward pass.

The logits of a few heads of one example fit in a core's memory, and never leave it. The kernels
read and write arrays as the projections lay them out, heads side by side; the backward kernel
computes the logits again, so that only its inputs are kept. JAX's own splash attention moves
heads of 64 as 128 lanes, and 128 float32 numbers a query and head from forward to backward pass.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

HEADS = ("batch", "length", "heads", None)
LANES = 128  # numbers in a row of a TPU's registers
MOST_LOGITS = 512 * 512  # of a head; the backward pass holds a few such arrays in float32
LEAST_QUERIES = 8  # with fewer, the logits are no larger than what they are computed from
MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # as in `jax.nn.dot_product_attention`


def fuses(queries: int, keys: int) -> bool:
    """Whether the kernels take these lengths and save memory traffic."""
    return queries >= LEAST_QUERIES and queries * keys <= MOST_LOGITS


def fused_attention(
    query: Float[Array, "b t h k"],
    keys: Float[Array, "b s h k"],
    values: Float[Array, "b s h k"],
    mask: Bool[Array, "#b 1 #t s"] | None = None,
    interpret: bool = False,
) -> Float[Array, "b t h k"]:
    """Multi-head attention as `jax.nn.dot_product_attention` computes it; needs a TPU.

    With a mesh and logical axis rules in force, each device computes its own examples and heads.

    Args:
      query: of lengths that `fuses` takes.
      keys: one for each value.
      values: what is averaged.
      mask: True where a query may attend to a key.
      interpret: run the kernels as plain JAX operations, on any device.
    """
    masks = () if mask is None else (mask.astype(jnp.int32),)
    attend = functools.partial(_attend_locally, interpret=interpret)
    if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
        return attend(query, keys, values, *masks)
    batch, _, heads, _ = nn.logical_to_mesh_axes(HEADS)
    spec = PartitionSpec(batch, None, heads, None)
    mask_specs = [PartitionSpec(batch if m.shape[0] > 1 else None) for m in masks]
    specs = (spec, spec, spec, *mask_specs)
    sharded = jax.shard_map(attend, in_specs=specs, out_specs=spec, check_vma=False)
    return sharded(query, keys, values, *masks)


def _attend_locally(
    query: Array, keys: Array, values: Array, *masks: Array, interpret: bool
) -> Array:
    heads = query.shape[2]
    side_by_side = (x.reshape(*x.shape[:2], -1) for x in (query, keys, values))
    return _attention(*side_by_side, masks, heads, interpret).reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(
    query: Float[Array, "b t w"],
    keys: Float[Array, "b s w"],
    values: Float[Array, "b s w"],
    masks: tuple[Array, ...],
    heads: int,
    interpret: bool,
) -> Float[Array, "b t w"]:
    return _call(_forward_kernel, (query, keys, values), masks, heads, (query,), 2, interpret)[0]


def _forward(query, keys, values, masks, heads, interpret):
    return _attention(query, keys, values, masks, heads, interpret), (query, keys, values, masks)


def _backward(heads, interpret, kept, d_output):
    *inputs, masks = kept
    arrays = (*inputs, d_output)
    gradients = _call(_backward_kernel, arrays, masks, heads, tuple(inputs), 5, interpret)
    return (*gradients, tuple(None for _ in masks))


_attention.defvjp(_forward, _backward)


def _call(kernel, arrays, masks, heads, results, matmuls, interpret: bool) -> Sequence[Array]:
    """Runs a kernel on each example and group of heads.

    Args:
      kernel: called with `size` of a head and the references of masks, arrays and results.
      arrays: [b, length, width] each.
      masks: none, or one of [b or 1, 1, t or 1, s].
      heads: how many the width holds.
      results: arrays shaped as the results.
      matmuls: how many of [t, k] x [k, s] the kernel does for each head.
      interpret: see `fused_attention`.
    """
    (batch, queries, width), length = arrays[0].shape, arrays[1].shape[1]
    size = width // heads
    lanes = math.lcm(size, LANES)
    lanes = lanes if width % lanes == 0 else width

    def block(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, x.shape[1], lanes), lambda example, group: (example, 0, group))

    def mask_block(mask: Array) -> pl.BlockSpec:
        one = mask.shape[0] == 1
        return pl.BlockSpec(
            (None, None, *mask.shape[2:]), lambda example, _: (0 if one else example, 0, 0, 0)
        )

    logits = batch * heads * queries * length
    moved = sum(x.size * x.dtype.itemsize for x in (*arrays, *masks, *results))
    return pl.pallas_call(
        functools.partial(kernel, size=size, masked=bool(masks)),
        grid=(batch, width // lanes),
        in_specs=[*map(mask_block, masks), *map(block, arrays)],
        out_specs=[block(x) for x in results],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        cost_estimate=pl.CostEstimate(
            flops=matmuls * 2 * logits * size, transcendentals=logits, bytes_accessed=moved
        ),
        name=f"dot_product_attention{kernel.__name__.removesuffix('_kernel')}",
        interpret=interpret,
    )(*masks, *arrays)


def _forward_kernel(*refs, size: int, masked: bool) -> None:
    (query, keys, values, output), mask = _split(refs, masked)
    for head in _heads(query, size):
        weights = _weights(query[:, head], keys[:, head], mask)
        value = values[:, head]
        output[:, head] = _matmul(weights.astype(value.dtype), value, 1, 0).astype(output.dtype)


def _backward_kernel(*refs, size: int, masked: bool) -> None:
    """Gradients as in flash attention (arXiv 2205.14135, appendix B)."""
    (query, keys, values, d_output, d_query, d_keys, d_values), mask = _split(refs, masked)
    for head in _heads(query, size):
        q, k, v, d_out = (ref[:, head] for ref in (query, keys, values, d_output))
        weights = _weights(q, k, mask)
        d_weights = _matmul(d_out, v, 1, 1)
        mean = jnp.sum(weights * d_weights, axis=1, keepdims=True)
        d_logits = weights * (d_weights - mean)
        if mask is not None:  # a query that may attend to nothing has no gradient
            d_logits = jnp.where(mask, d_logits, 0)
        d_logits = (d_logits * size**-0.5).astype(q.dtype)
        d_query[:, head] = _matmul(d_logits, k, 1, 0).astype(d_query.dtype)
        d_keys[:, head] = _matmul(d_logits, q, 0, 0).astype(d_keys.dtype)
        d_values[:, head] = _matmul(weights.astype(v.dtype), d_out, 0, 0).astype(d_values.dtype)


def _split(refs, masked: bool):
    """The references of arrays, and the mask that may come before them."""
    return (refs[1:], refs[0][...] != 0) if masked else (refs, None)


def _heads(query, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, query.shape[1], size)]


def _weights(query: Array, keys: Array, mask: Array | None) -> Float[Array, "t s"]:
    """The softmax of a head's logits, in float32."""
    logits = _matmul(query, keys, 1, 1) * query.shape[1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    powers = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return powers / jnp.sum(powers, axis=1, keepdims=True)


def _matmul(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """The float32 matmul over one axis of each."""
    return jax.lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32
    )
