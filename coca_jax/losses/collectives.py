"""Collectives of losses: thin wrappers that do nothing without a mesh.

With a mesh and logical axis rules in force, a loss runs on each device's own rows and part of the
vocabulary, and adds up the results; without them the same code runs on one device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, Shaped


class Layout(NamedTuple):
    """Mesh axes over which the rows of a batch, and the vocabulary, are split."""

    rows: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()
    meshed: bool = False


def current_layout() -> Layout:
    """The layout by the mesh and the logical axis rules in force."""
    if jax.sharding.get_abstract_mesh().empty or not nn.get_logical_axis_rules():
        return Layout()
    spec = nn.logical_to_mesh_axes(("batch", "vocab"))
    rows, vocab = (axes if isinstance(axes, tuple) else (axes,) if axes else () for axes in spec)
    return Layout(rows, vocab, True)


def shard_map(
    function: Callable[..., Any], layout: Layout, inputs: Any, outputs: Any
) -> Callable[..., Any]:
    """`jax.shard_map` on the mesh in force; without one, the function itself.

    Args:
      function: of each device's own parts.
      layout: whether there is a mesh.
      inputs: the specs of its arguments.
      outputs: the specs of its results; one that is not split must be the same on all devices.
    """
    if not layout.meshed:
        return function
    # Nothing here is differentiated through, so that the types of varying values bring nothing.
    return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)


def spec(*axes: tuple[str, ...]) -> PartitionSpec:
    """The spec of an array whose dimensions are split over these mesh axes; () is not at all."""
    return PartitionSpec(*(a or None for a in axes))


def psum(x: Any, axes: tuple[str, ...]) -> Any:
    """Sum over the devices along mesh axes."""
    return jax.lax.psum(x, axes) if axes else x


def pmax(x: Shaped[Array, "*shape"], axes: tuple[str, ...]) -> Shaped[Array, "*shape"]:
    """Maximum over the devices along mesh axes."""
    return jax.lax.pmax(x, axes) if axes else x


def pmin(x: Shaped[Array, "*shape"], axes: tuple[str, ...]) -> Shaped[Array, "*shape"]:
    """Minimum over the devices along mesh axes."""
    return jax.lax.pmin(x, axes) if axes else x


def all_gather(x: Shaped[Array, "n *rest"], axes: tuple[str, ...]) -> Shaped[Array, "m *rest"]:
    """The rows of all devices along mesh axes, in their order."""
    return jax.lax.all_gather(x, axes, tiled=True) if axes else x


def psum_scatter(x: Shaped[Array, "n *rest"], axes: tuple[str, ...]) -> Shaped[Array, "m *rest"]:
    """Sum over the devices along mesh axes; each keeps its own rows."""
    return jax.lax.psum_scatter(x, axes, tiled=True) if axes else x


def axis_index(axes: tuple[str, ...]) -> Int[Array, ""]:
    """The index of this device's part along mesh axes."""
    return jax.lax.axis_index(axes) if axes else jnp.int32(0)


def in_chunks(rows: Any, chunk_size: int) -> Any:
    """Arrays with equally many rows, cut to chunks of at most `chunk_size` on a new leading axis.

    The chunks have one size; the last one is padded with zeros.
    """
    count = len(jax.tree.leaves(rows)[0])
    size = -(-count // -(-count // chunk_size))
    pieces = -(-count // size)

    def cut(x: Array) -> Array:
        padding = [(0, pieces * size - count)] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x, padding) if pieces * size > count else x
        return x.reshape(pieces, size, *x.shape[1:])

    return jax.tree.map(cut, rows)


def scan(step: Callable[..., Any], start: Any, pieces: Any) -> tuple[Any, Any]:
    """`jax.lax.scan`, without a loop if there is one piece only."""
    return jax.lax.scan(step, start, pieces, unroll=len(jax.tree.leaves(pieces)[0]) == 1)


def joined(pieces: Shaped[Array, "chunks c *rest"], count: int) -> Shaped[Array, "n *rest"]:
    """Undoes `in_chunks`: the first `count` rows."""
    return pieces.reshape(-1, *pieces.shape[2:])[:count]
