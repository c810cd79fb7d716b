import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.models.layers import LAYER_NORM_EPSILON, Dense, Residual, gelu, normalize


def in_float64(arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def layer_norm(x, scale, bias):
    centered = x - x.mean(axis=1, keepdims=True)
    variance = np.square(centered).mean(axis=1, keepdims=True)
    return centered / np.sqrt(variance + LAYER_NORM_EPSILON) * scale + bias


def exact_gelu(x, bias):
    return np.vectorize(lambda v: v * 0.5 * math.erfc(-v / math.sqrt(2)))(x + bias)


def slopes(function, arguments, weights, step=1e-5):
    """Central differences, in float64, of the weighted sum of what a function returns."""
    result = []
    for i, argument in enumerate(arguments):
        slope = np.zeros_like(argument)
        for at in np.ndindex(argument.shape):
            moved = []
            for sign in (1, -1):
                changed = [x.copy() for x in arguments]
                changed[i][at] += sign * step
                moved.append(np.sum(weights * function(*changed)))
            slope[at] = (moved[0] - moved[1]) / (2 * step)
        result.append(slope)
    return result


CASES = {
    "normalize": (
        lambda x, scale, bias: normalize(x, scale, bias, x.dtype),
        layer_norm,
        [(5, 6), (6,), (6,)],
    ),
    "gelu": (gelu, exact_gelu, [(5, 6), (6,)]),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_float64(name, dtype):
    function, reference, shapes = CASES[name]
    rng = np.random.default_rng(0)
    first, *rest = (2 * rng.standard_normal(shape) + 0.5 for shape in shapes)
    parameters = dtype if name == "gelu" else jnp.float32
    arguments = [jnp.asarray(first, dtype), *(jnp.asarray(x, parameters) for x in rest)]
    weights = jnp.asarray(rng.standard_normal(first.shape), dtype)

    value, backward = jax.vjp(jax.jit(function), *arguments)
    assert value.dtype == dtype
    close = {"atol": 2e-5} if dtype == "float32" else {"rtol": 0.02, "atol": 0.05}
    np.testing.assert_allclose(in_float64([value])[0], reference(*in_float64(arguments)), **close)
    expected = slopes(reference, in_float64(arguments), in_float64([weights])[0])
    for computed, slope in zip(backward(weights), expected, strict=True):
        np.testing.assert_allclose(in_float64([computed])[0], slope, **close)


@pytest.mark.parametrize("name", CASES)
def test_of_the_rows_only_the_input_is_kept(name):
    function, _, shapes = CASES[name]
    first, *rest = (jnp.ones(shape, jnp.bfloat16) for shape in shapes)
    _, backward = jax.vjp(function, first, *rest)
    large = [x for x in jax.tree.leaves(backward) if x.shape == first.shape]
    assert len(large) == 1 and large[0].dtype == jnp.bfloat16


def test_gelu_is_finite_and_right_far_from_zero():
    x = jnp.array([[-40.0, -6.0, 6.0, 40.0, 3e38]])
    value, backward = jax.vjp(gelu, x, jnp.zeros(5))
    np.testing.assert_allclose(value, [[0, 0, 6, 40, 3e38]], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(backward(jnp.ones((1, 5)))[0], [[0, 0, 1, 1, 1]], atol=1e-6)


def test_a_shift_of_all_rows_goes_by_way_of_the_bias():
    rng = np.random.default_rng(0)
    x, shift, kernel, bias = (rng.standard_normal(s) for s in [(2, 3, 4), (4,), (4, 5), (5,)])
    params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    module = Dense(5, ("embed", "mlp"), jnp.dtype("float32"))
    y = module.apply({"params": params}, jnp.float32(x), jnp.float32(shift))
    np.testing.assert_allclose(y, (x + shift) @ kernel + bias, rtol=1e-5, atol=1e-5)
    apart = Dense(5, ("embed", "mlp"), jnp.dtype("float32"), separate_bias=True)
    product, kept = apart.apply({"params": params}, jnp.float32(x))
    np.testing.assert_allclose(product, x @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept, params["bias"])
    with pytest.raises(ValueError, match="use_bias=False"):
        module.clone(use_bias=False).apply({"params": params}, jnp.float32(x), jnp.float32(shift))


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    x, branch = jnp.zeros((4000, 2, 3)), jnp.ones((4000, 2, 3))
    module = Residual(dropout=0.0, stochastic=True)
    out = module.apply({}, x, branch, jnp.float32(0.25), rngs={"dropout": jax.random.key(0)})
    values = np.unique(np.round(out, 4))
    np.testing.assert_allclose(values, [0, 1.3333])
    assert (np.ptp(np.asarray(out), axis=(1, 2)) == 0).all()
    np.testing.assert_allclose(out.mean(), 1, atol=0.05)
    np.testing.assert_array_equal(module.apply({}, x, branch, jnp.float32(0.25)), x + branch)
