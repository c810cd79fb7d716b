import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.models.layers import Residual


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    x, branch = jnp.zeros((4000, 2, 3)), jnp.ones((4000, 2, 3))
    module = Residual(dropout=0.0, stochastic=True)
    out = module.apply({}, x, branch, jnp.float32(0.25), rngs={"dropout": jax.random.key(0)})
    values = np.unique(np.round(out, 4))
    np.testing.assert_allclose(values, [0, 1.3333])
    assert (np.ptp(np.asarray(out), axis=(1, 2)) == 0).all()
    np.testing.assert_allclose(out.mean(), 1, atol=0.05)
    np.testing.assert_array_equal(module.apply({}, x, branch, jnp.float32(0.25)), x + branch)
