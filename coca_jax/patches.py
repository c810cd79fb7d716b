"""Images as they are: each is cut into its own grid of patches, at most so many of them.

As NaFlex in SigLIP 2 (arXiv 2502.14786, section 2.4.2) and NaViT (arXiv 2307.06304): an image keeps
its aspect ratio, up to rounding to whole patches, and a batch has one length by padding.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Num, UInt8

Size = tuple[int, int]  # height and width in pixels, or rows and columns of patches


@dataclasses.dataclass(frozen=True)
class PatchBudget:
    """The size that images are brought to: at most `length` square patches of `patch` pixels."""

    patch: int
    length: int

    def grid(self, height: int, width: int) -> Size:
        """Rows and columns of patches of an image of this height and width.

        Those of the largest scale at which the image, with both sides rounded up to whole patches,
        has at most `length` of them. Small images are enlarged. An image whose long side is more
        than `length` times its short side becomes one row, or column, of `length` patches.
        """
        rows, columns = self._most(height, width), self._most(width, height)
        # At a scale of n patches to the height, the width takes n * width / height of them.
        if rows * width >= columns * height:
            return rows, -(-rows * width // height)
        return -(-columns * height // width), columns

    def _most(self, side: int, other: int) -> int:
        """The most whole patches along a side such that all fit, the other side's rounded up."""
        count = min(self.length, math.isqrt(self.length * side // other))
        while count and count * -(-count * other // side) > self.length:
            count -= 1
        return count

    def size(self, height: int, width: int) -> Size:
        """Height and width, in whole patches, that such an image is resized to."""
        rows, columns = self.grid(height, width)
        return rows * self.patch, columns * self.patch


Target = Size | PatchBudget  # what images are resized to: one size, or each its own


def size_of(target: Target, height: int, width: int) -> Size:
    """The size that an image of this height and width is resized to."""
    return target.size(height, width) if isinstance(target, PatchBudget) else target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Patches:
    """Images, or one image, cut into patches, each image with its own grid; a pytree.

    Indexing takes images, as of an array. Patches are in row order, each flattened as (row, column,
    channel); behind those of an image is padding.
    """

    patches: Any  # [b, n, patch * patch * 3]; uint8, or normalized floating-point
    grid: Any  # int32 [b, 2]: rows and columns

    def __len__(self) -> int:
        return len(self.grid)

    def __getitem__(self, index: Any) -> "Patches":
        return Patches(self.patches[index], self.grid[index])

    def __iter__(self) -> Iterator["Patches"]:
        return (self[index] for index in range(len(self)))

    @property
    def mask(self) -> Any:
        """Which patches are not padding, bool [b, n]."""
        count = (self.grid[..., 0] * self.grid[..., 1])[..., None]
        index = np.arange(self.patches.shape[-2], dtype=np.int32)
        return index.reshape(*[1] * (count.ndim - 1), -1) < count

    def whole(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of one image of bytes, put together again."""
        rows, columns = map(int, self.grid)
        patch = math.isqrt(self.patches.shape[-1] // 3)
        cut = self.patches[: rows * columns].reshape(rows, columns, patch, patch, 3)
        return cut.swapaxes(1, 2).reshape(rows * patch, columns * patch, 3)


Images = np.ndarray | Patches  # of one size, or each of its own


def room(count: int, target: Target, num_images: int = 1) -> Images:
    """A batch of black images of one size, or without any patches yet, for `put`."""
    if isinstance(target, PatchBudget):
        patches = np.zeros((count, target.length, target.patch**2 * 3), np.uint8)
        return Patches(patches, np.zeros((count, 2), np.int32))
    return np.zeros((count, *[num_images] * (num_images > 1), *target, 3), np.uint8)


def put(images: Images, row: int, image: UInt8[np.ndarray, "*several h w 3"]) -> None:
    """Writes an image that has been resized into a row of a batch; behind patches are zeros."""
    if not isinstance(images, Patches):
        images[row] = image
        return
    patch = math.isqrt(images.patches.shape[-1] // 3)
    rows, columns = (side // patch for side in image.shape[:2])
    cut = image.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2)
    images.patches[row, : rows * columns] = cut.reshape(rows * columns, -1)
    images.grid[row] = rows, columns


def ready(image: UInt8[np.ndarray, "h w 3"], target: Target) -> Images:
    """An image that has been resized as a model reads it: as it is, or cut into patches."""
    if not isinstance(target, PatchBudget):
        return image
    one = room(1, target)
    put(one, 0, image)
    return one[0]


def stack(images: Sequence[Images]) -> Images:
    """A batch of one or more images."""
    return jax.tree.map(lambda *parts: np.stack(parts), *images)


def of_grid(
    values: Num[np.ndarray, "*b n"], grid: Int[np.ndarray, "2"]
) -> Num[np.ndarray, "*b rows columns"]:
    """Values of each patch of an image, with padding behind them, in the places of its grid."""
    rows, columns = map(int, grid)
    return values[..., : rows * columns].reshape(*values.shape[:-1], rows, columns)


def copied(images: Images) -> Images:
    """A copy, which keeps no larger batch in memory."""
    return jax.tree.map(np.array, images)


def filled(images: Images, level: int) -> Images:
    """Images of the same sizes, all of one gray."""
    if isinstance(images, Patches):
        return Patches(np.full_like(images.patches, level), images.grid)
    return np.full_like(images, level)


def join(batches: Sequence[Any]) -> Any:
    """Concatenates batches of images, or other trees of arrays with a row for each example."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def places(grid: Int[Any, "b 2"], length: int) -> tuple[Any, Any]:
    """Row and column of each of `length` patches in row order, int [b, n]; padding's in range."""
    index = np.arange(length, dtype=np.int32)[None]
    columns = grid[:, 1:]
    return (index // columns).clip(max=grid[:, :1] - 1), index % columns
