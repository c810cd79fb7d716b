"""Position embeddings of images at other grids of patches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from coca_jax.patches import places

Grid = tuple[int, int]  # rows and columns of patches


def resample_positions(
    table: Float[Array, "old d"], old_grid: Grid, new_grid: Grid, first: int = 0
) -> Float[Array, "new d"]:
    """Position embeddings for `new_grid`, interpolated bicubically from those for `old_grid`.

    A grid that shrinks is smoothed first (antialiasing), as torch and Pillow do it: the resampling
    of OpenCLIP's `resize_pos_embed`. Computed in float32.

    Args:
      table: `first + rows * columns` embeddings, patches in row order.
      old_grid: its grid.
      new_grid: the grid that is wanted.
      first: leading embeddings that belong to no patch (a class token's); they stay as they are.

    Raises:
      ValueError: the table is not one of `old_grid`.
    """
    if table.shape[0] != first + old_grid[0] * old_grid[1]:
        raise ValueError(f"{table.shape[0]} positions are not {first} and a grid of {old_grid}")
    width = table.shape[1]
    grid = table[first:].astype(jnp.float32).reshape(*old_grid, width)
    grid = jax.image.resize(grid, (*new_grid, width), "cubic", antialias=True)
    return jnp.concatenate([table[:first], grid.reshape(-1, width).astype(table.dtype)])


def positions_at(
    table: Float[Array, "old d"], base: Grid, grids: Int[Array, "b 2"], length: int
) -> Float[Array, "b n d"]:
    """Position embeddings of images with a grid each, interpolated bilinearly from the table.

    An axis that shrinks is smoothed first (antialiasing), as in SigLIP 2 (arXiv 2502.14786, section
    2.4.2): `jax.image.resize` by "linear", for grids that are known when the program runs. Computed
    in float32; a grid like the table's takes its embeddings as they are.

    Args:
      table: an embedding for each patch of the base grid, in row order.
      base: the table's grid.
      grids: rows and columns of each image.
      length: number of patches of an image, in row order; what is behind its grid is padding.
    """
    row, column = places(grids, length)
    by_row = _shares(row, grids[:, :1], base[0])
    by_column = _shares(column, grids[:, 1:], base[1])
    shares = (by_row[..., :, None] * by_column[..., None, :]).reshape(*row.shape, -1)
    return jnp.einsum(
        "bno,od->bnd", shares, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )


def _shares(place: Int[Array, "b n"], size: Int[Array, "b 1"], old: int) -> Float[Array, "b n old"]:
    """What each of `old` places adds to one of `size` places; the kernel is widened to shrink."""
    scale = old / size.astype(jnp.float32)
    center = (place + 0.5) * scale - 0.5
    distance = jnp.abs(center[..., None] - jnp.arange(old, dtype=jnp.float32)[None, None])
    kernel = jnp.maximum(0.0, 1 - distance / jnp.maximum(scale, 1.0)[..., None])
    return kernel / jnp.sum(kernel, axis=-1, keepdims=True)
