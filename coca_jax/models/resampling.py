"""Position embeddings of images at another grid of patches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
