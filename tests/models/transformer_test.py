import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.models.transformer import Transformer

SIZES = {"num_layers": 2, "num_heads": 2, "mlp_dim": 8}


@pytest.mark.parametrize(
    ("remat", "dtype", "changes"),
    [
        ("none", "bfloat16", {}),
        ("full", "bfloat16", {}),
        ("full", "float32", {"num_layers": 4, "cross_every": 2}),
    ],
)
def test_unrolled_layers_compute_what_a_scan_does(remat, dtype, changes):
    """In bfloat16, where unrolled layers cast their kernels as they cut them out of the stacks."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), dtype)
    layers = [
        Transformer(**SIZES | changes, unroll=unroll, remat=remat, dtype=jnp.dtype(dtype))
        for unroll in (1, 2)
    ]
    params = layers[0].init(jax.random.key(0), x)
    # Away from zeros and ones, with digits that bfloat16 does not have.
    params = jax.tree.map(lambda p: p + 0.1003, params)

    def gradient(module):
        total = lambda p: jnp.sum(jnp.sin(module.apply(p, x)[0].astype(jnp.float32)))  # noqa: E731
        return jax.jit(jax.value_and_grad(total))(params)

    (expected, slopes), (value, unrolled) = map(gradient, layers)
    np.testing.assert_allclose(value, expected, rtol=4e-3)  # an epsilon of bfloat16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.05), unrolled, slopes)
    assert {leaf.dtype for leaf in jax.tree.leaves(unrolled)} == {jnp.dtype("float32")}
