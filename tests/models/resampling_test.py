import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.resampling import resampled

from coca_jax.models.resampling import positions_at, resample_positions


@pytest.fixture(scope="module")
def recorded():
    """Positions of a class token and 4 x 4 patches, and what OpenCLIP makes of them."""
    with np.load("tests/fixtures/open_clip/positions.npz") as file:
        return dict(file)


@pytest.mark.parametrize("grid", [(6, 6), (3, 3), (3, 5)])
def test_is_open_clips(recorded, grid):
    found = resample_positions(jnp.asarray(recorded["4x4"]), (4, 4), grid, first=1)
    np.testing.assert_allclose(found, recorded[f"{grid[0]}x{grid[1]}"], atol=1e-6)


@pytest.mark.parametrize("old, new", [((4, 2), (8, 4)), ((8, 2), (4, 4)), ((3, 5), (7, 2))])
@pytest.mark.parametrize("first", [0, 1])
def test_is_the_kernel_written_out(old, new, first):
    table = np.random.default_rng(0).standard_normal((first + old[0] * old[1], 6), np.float32)
    found = resample_positions(jnp.asarray(table), old, new, first)
    np.testing.assert_array_equal(found[:first], table[:first])
    np.testing.assert_allclose(found, resampled(table, old, new, first), atol=2e-6)


def test_the_same_grid_is_the_same_table():
    table = np.random.default_rng(0).standard_normal((17, 6), np.float32)
    found = resample_positions(jnp.asarray(table), (4, 4), (4, 4), 1)
    np.testing.assert_allclose(found, table, atol=1e-6)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="17 positions are not 0 and a grid"):
        resample_positions(jnp.zeros((17, 6)), (4, 4), (6, 6))


def bilinear(old, new):
    """[new, old]: the triangle kernel, widened to shrink, in float64."""
    scale = old / new
    centers = (np.arange(new) + 0.5) * scale - 0.5
    kernel = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(old)) / max(scale, 1))
    return kernel / kernel.sum(axis=1, keepdims=True)


def test_positions_of_each_grid_are_the_kernel_written_out_and_jaxs():
    base, grids, length = (5, 4), [(5, 4), (1, 20), (12, 1), (3, 7), (1, 1), (2, 9)], 21
    table = np.random.default_rng(0).standard_normal((20, 6), np.float32)
    found = jax.jit(positions_at, static_argnums=(1, 3))(
        jnp.array(table), base, jnp.array(grids, jnp.int32), length
    )
    assert np.isfinite(found).all()
    for rows, (height, width) in zip(np.asarray(found), grids, strict=True):
        own = rows[: height * width].reshape(height, width, 6)
        grid = table.astype(np.float64).reshape(*base, 6)
        expected = np.einsum(
            "ai,bj,ijd->abd", bilinear(base[0], height), bilinear(base[1], width), grid
        )
        np.testing.assert_allclose(own, expected, atol=2e-6)
        resized = jax.image.resize(table.reshape(*base, 6), own.shape, "linear", antialias=True)
        np.testing.assert_allclose(own, resized, atol=2e-6)
    np.testing.assert_array_equal(found[0, :20], table)
