"""The most probable tokens of a vocabulary."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def top_k(x: Float[Array, "b *c v"], k: int) -> tuple[Float[Array, "b *c k"], Int[Array, "b *c k"]]:
    """The k largest of the last axis, descending, and their places; of equal ones the first.

    `jax.lax.top_k` where the rows are: XLA would bring all of them to every device (jaxlib 0.10.2).
    """
    largest = functools.partial(jax.lax.top_k, k=k)
    mesh, rows = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes(("batch",))
    shards = math.prod(mesh.shape.get(axis, 1) for axis in jax.tree.leaves(tuple(rows)))
    if shards > 1 and x.shape[0] % shards == 0:
        largest = jax.shard_map(largest, in_specs=rows, out_specs=rows)
    return tuple(largest(x))


def nucleus(probabilities: Float[Array, "*b v"], top_p: float) -> Bool[Array, "*b v"]:
    """The fewest most probable tokens whose probabilities add up to `top_p` (arXiv 1904.09751).

    Equally probable ones are in or out together. Sorting a vocabulary on a CPU takes longer than a
    small decoder's step: the least probability in the set is built up bit by bit instead, since
    positive floats have the order of their bits.
    """
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def narrow(i: Array, least: Array) -> Array:
        higher = least | (1 << (29 - i))  # up to 1.0, bits 30 and 31 are 0
        mass = jnp.sum(jnp.where(bits >= higher, probabilities, 0), axis=-1, keepdims=True)
        return jnp.where(mass >= top_p, higher, least)

    least = jnp.zeros((*bits.shape[:-1], 1), jnp.int32)
    return bits >= jax.lax.fori_loop(0, 30, narrow, least)
