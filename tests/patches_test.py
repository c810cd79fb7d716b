from fractions import Fraction
from math import ceil

import jax
import numpy as np
import pytest

from coca_jax.patches import PatchBudget, Patches, copied, filled, join, of_grid, put, room, stack


def largest_grid(height, width, length):
    """By trying every scale at which a side is a whole number of patches."""
    sides = range(1, length + 1)
    scales = {Fraction(n, side) for n in sides for side in (height, width)}
    grids = {s: (ceil(height * s), ceil(width * s)) for s in scales}
    return max((s, grid) for s, grid in grids.items() if grid[0] * grid[1] <= length)[1]


SIZES = [(1, 1), (1, 1000), (1000, 1), (3, 39), (480, 640), (640, 480), (64, 64), (7, 1), (97, 89)]


@pytest.mark.parametrize("length", [1, 2, 5, 64, 100])
def test_the_grid_is_that_of_the_largest_scale_that_fits(length):
    for height, width in SIZES:
        rows, columns = PatchBudget(8, length).grid(height, width)
        assert (rows, columns) == largest_grid(height, width, length)


def test_grids_as_siglip_2_has_them():
    budget = PatchBudget(16, 256)
    assert budget.grid(3, 39) == (4, 52)
    assert budget.grid(224, 224) == (16, 16)
    assert budget.size(224, 224) == (256, 256)
    assert budget.grid(1, 10**6) == (1, 256) and budget.grid(10**6, 1) == (256, 1)


def test_the_aspect_ratio_is_kept_up_to_a_patch():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(100, 2000, (200, 2)).tolist():
        rows, columns = PatchBudget(16, 256).grid(height, width)
        assert 256 * 0.8 < rows * columns <= 256
        assert (rows - 1) / columns < height / width < rows / (columns - 1)


def test_batches_are_taken_apart_and_put_together():
    budget, rng = PatchBudget(2, 3), np.random.default_rng(0)
    batch = room(3, budget)
    images = [
        rng.integers(256, size=(2 * r, 2 * c, 3), dtype=np.uint8) for r, c in ((1, 3), (2, 1))
    ]
    for row, image in enumerate(images):
        put(batch, row, image)
    for image, row in zip(images, batch, strict=False):
        np.testing.assert_array_equal(row.whole(), image)
    assert (
        len(batch) == 3 and len(batch[1:]) == 2 and len(batch[np.array([True, False, True])]) == 2
    )
    again = stack([*batch])
    np.testing.assert_array_equal(again.patches, batch.patches)
    joined = join([{"image": batch[:1]}, {"image": batch[1:]}])["image"]
    np.testing.assert_array_equal(joined.grid, batch.grid)
    gray = filled(batch, 128)
    assert (gray.patches == 128).all() and (gray.grid == batch.grid).all()
    batch_copy = copied(batch[0])
    batch.patches[:] = 0
    assert batch_copy.patches.any()
    assert jax.tree.leaves(batch)[1].shape == (3, 2)


def test_values_of_patches_lie_as_their_image():
    assert of_grid(np.arange(7), np.array([2, 3])).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_batch_of_one_size_is_an_array():
    batch = room(2, (4, 5))
    put(batch, 1, np.full((4, 5, 3), 7, np.uint8))
    assert batch.shape == (2, 4, 5, 3) and not batch[0].any() and not isinstance(batch, Patches)
