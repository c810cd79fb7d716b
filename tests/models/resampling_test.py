import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.models.resampling import resample_positions

FIXTURE = "tests/fixtures/open_clip/positions.npz"


@pytest.fixture(scope="module")
def recorded():
    """Positions of a class token and 4 x 4 patches, and what OpenCLIP makes of them."""
    return dict(np.load(FIXTURE))


@pytest.mark.parametrize("grid", [(6, 6), (3, 3), (3, 5)])
def test_is_open_clips(recorded, grid):
    found = resample_positions(jnp.asarray(recorded["4x4"]), (4, 4), grid, first=1)
    np.testing.assert_allclose(found, recorded[f"{grid[0]}x{grid[1]}"], atol=1e-6)


def cubic(x):
    """Keys' kernel with a = -1/2 (IEEE Trans. ASSP 29, 1981, equation 15)."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def weights(old, new):
    """[new, old]: what each old place adds to a new one; the kernel is widened to shrink."""
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    kernel = cubic((centres[:, None] - np.arange(old)) / max(scale, 1.0))
    return kernel / kernel.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("old, new", [((4, 2), (8, 4)), ((8, 2), (4, 4)), ((3, 5), (7, 2))])
@pytest.mark.parametrize("first", [0, 1])
def test_is_the_kernel_written_out(old, new, first):
    table = np.random.default_rng(0).standard_normal((first + old[0] * old[1], 6), np.float32)
    grid = table[first:].reshape(*old, 6).astype(np.float64)
    expected = np.einsum("ai,bj,ijd->abd", weights(old[0], new[0]), weights(old[1], new[1]), grid)
    found = resample_positions(jnp.asarray(table), old, new, first)
    np.testing.assert_array_equal(found[:first], table[:first])
    np.testing.assert_allclose(found[first:], expected.reshape(-1, 6), atol=2e-6)


def test_the_same_grid_is_the_same_table():
    table = np.random.default_rng(0).standard_normal((17, 6), np.float32)
    found = resample_positions(jnp.asarray(table), (4, 4), (4, 4), 1)
    np.testing.assert_allclose(found, table, atol=1e-6)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="17 positions are not 0 and a grid"):
        resample_positions(jnp.zeros((17, 6)), (4, 4), (6, 6))
