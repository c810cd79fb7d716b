"""The TPU kernels of attention, interpreted, against float64; on one device and on a mesh."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from coca_jax.models.attention import dot_product_attention
from coca_jax.models.fused_attention import fused_attention, fuses
from coca_jax.planning.flops import hardware_flops

LENGTHS, HEADS = (9, 12), 4


def arrays(size, seed=0):
    """Queries, keys, values and the gradient of the result, [2, length, 4, size] each."""
    rng = np.random.default_rng(seed)
    lengths = (LENGTHS[0], LENGTHS[1], LENGTHS[1], LENGTHS[0])
    return [rng.standard_normal((2, length, HEADS, size)).astype(np.float32) for length in lengths]


def with_gradients(attend, query, keys, values, by_result):
    result, pull = jax.vjp(attend, query, keys, values)
    return result, *pull(by_result)


def reference(query, keys, values, by_result, mask):
    """The attention and its gradients in float64, written out with NumPy."""
    query, keys, values, by_result = (
        np.swapaxes(x, 1, 2).astype(np.float64) for x in (query, keys, values, by_result)
    )
    scale = query.shape[-1] ** -0.5
    logits = np.where(mask, query @ np.swapaxes(keys, 2, 3) * scale, -1e30)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    by_weights = by_result @ np.swapaxes(values, 2, 3)
    by_logits = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True))
    by_logits = np.where(mask, by_logits, 0) * scale
    results = (
        weights @ values,
        by_logits @ keys,
        np.swapaxes(by_logits, 2, 3) @ query,
        np.swapaxes(weights, 2, 3) @ by_result,
    )
    return [np.swapaxes(x, 1, 2) for x in results]


def some_mask(rows):
    """A random mask; the first query of its first row may attend to nothing."""
    mask = np.random.default_rng(1).random((rows, 1, *LENGTHS)) < 0.6
    mask[0, 0, 0] = False
    return mask


@pytest.mark.parametrize(
    ("size", "mask"),
    [(64, None), (64, some_mask(2)), (24, some_mask(1)), (24, some_mask(2)[:, :, 1:2])],
    ids=[
        *("groups of two heads", "a mask for each example", "all heads at once, one mask"),
        "a mask of keys for each example",
    ],
)
def test_the_kernels_compute_attention_and_its_gradients(size, mask):
    inputs = arrays(size)
    attend = functools.partial(
        fused_attention, mask=None if mask is None else jnp.asarray(mask), interpret=True
    )
    results = jax.jit(functools.partial(with_gradients, attend))(*inputs)
    expected = reference(*inputs, True if mask is None else mask)
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, values, atol=5e-6)


def test_a_mesh_divides_examples_and_heads():
    inputs, mask = arrays(8), some_mask(2)
    attend = functools.partial(fused_attention, mask=jnp.asarray(mask), interpret=True)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rules = (("batch", "data"), ("heads", "tensor"), ("length", None))
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        step = jax.jit(functools.partial(with_gradients, attend))
        compiled = step.lower(*inputs).compile()
        results = step(*inputs)
    assert "all-reduce" not in compiled.as_text()
    for result, values in zip(results, reference(*inputs, mask), strict=True):
        np.testing.assert_allclose(result, values, atol=5e-6)


def test_short_queries_and_long_sequences_are_left_to_xla():
    assert fuses(256, 256) and fuses(65, 65)
    assert not fuses(1, 256) and not fuses(1024, 1024)
    query, keys, values, _ = map(jnp.asarray, arrays(8))
    # The kernels need a TPU.
    result = dot_product_attention(query[:, :1], keys, values, None, "pallas")
    expected = jax.nn.dot_product_attention(query[:, :1], keys, values)
    np.testing.assert_array_equal(result, expected)


def test_flops_are_those_of_its_matmuls():
    inputs = arrays(64)
    step = jax.make_jaxpr(functools.partial(with_gradients, fused_attention))(*inputs)
    matmul = 2 * 2 * HEADS * LENGTHS[0] * LENGTHS[1] * 64
    assert hardware_flops(step) == (2 + 5) * matmul
