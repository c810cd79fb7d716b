import jax.numpy as jnp
import numpy as np
import pytest
from reference.resampling import resampled

from coca_jax.models.resampling import resample_positions


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
