"""Each rule's operation in onnxruntime, against JAX, in more forms than the model has."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax

from coca_jax.errors import UserError
from coca_jax.export.functions import Spec, Traced
from coca_jax.export.onnx_file import write_onnx

(B,) = jax.export.symbolic_shape("batch")
FLOAT, INT = jnp.float32, jnp.int32


def floats(*shape):
    return Spec(shape, FLOAT)


def dot(lhs_sum, rhs_sum, lhs_batch=(), rhs_batch=()):
    numbers = ((lhs_sum, rhs_sum), (lhs_batch, rhs_batch))
    return lambda x, y: lax.dot_general(x, y, numbers)


def where_bool(x):
    return jnp.where(x > 0, x > 1, x < -1)


# What is computed, of arrays of which the first has the batch as its first axis.
CASES = {
    "broadcast": (lambda x, y: x * y[None] + 2.5, floats(B, 3, 4), floats(3, 1)),
    "broadcast to more axes": (
        lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], 5, 3)),
        floats(B, 3),
    ),
    "rows without the batch": (
        lambda x, y: jnp.concatenate([x, jnp.broadcast_to(y, (x.shape[0], 1, 4))], axis=1),
        floats(B, 3, 4),
        floats(4),
    ),
    "reshape": (lambda x: x.reshape(-1, 4).sum(1, keepdims=True), floats(B, 3, 4)),
    "multiply every row": (
        lambda x: jnp.ones((3 * x.shape[0], 4)) * x.reshape(-1, 4),
        floats(B, 3, 4),
    ),
    "reduce": (lambda x: (x.sum((0, 2)), x.max(1), x.min(-1)), floats(B, 3, 4)),
    "reduce what is broadcast": (
        lambda x: jnp.broadcast_to(x, (x.shape[0], 6)).sum(1),
        floats(B, 1),
    ),
    "scalar functions": (
        lambda x: jnp.exp(x) + lax.erf(x) + jnp.tanh(x) - lax.rsqrt(x * x + 1) + jnp.square(x) ** 3,
        floats(B, 4),
    ),
    "comparisons": (
        lambda x, y: jnp.where((x > y[None]) | ~(x <= 0) & (x != y[None]), x, -x),
        floats(B, 4),
        floats(4),
    ),
    "choice of bools": (where_bool, floats(B, 4)),
    "slice": (lambda x: lax.slice(x, (0, 1, 0), (x.shape[0], 6, 3), (1, 2, 1)), floats(B, 7, 4)),
    "reversed axes and stack": (lambda x: jnp.stack([x.T, x.T + 1], axis=1), floats(B, 4)),
    "unstack": (lambda x: jnp.unstack(x, axis=1)[2], floats(B, 4)),
    "pad": (lambda x: jnp.pad(x > 0, ((0, 0), (2, 1)), constant_values=True), floats(B, 4)),
    "take rows": (lambda i, x: x[i], Spec((B, 2), INT), floats(3, 4)),
    "take columns": (
        lambda x, i: jnp.take(x, i, axis=1, mode="clip"),
        floats(B, 3),
        Spec((5,), INT),
    ),
    "slice from": (
        lambda x, i, y: x * lax.dynamic_slice(y, (i, 0), (2, 4)).sum(),
        floats(B),
        Spec((), INT),
        floats(3, 4),
    ),
    "write a row": (
        lambda x, y, i: lax.dynamic_update_slice_in_dim(x, y, i, 2),
        floats(B, 3, 5),
        floats(B, 3, 1),
        Spec((), INT),
    ),
    "matmul": (dot((2,), (0,)), floats(B, 3, 4), floats(4, 5)),
    "matmul by a vector": (dot((2,), (0,)), floats(B, 3, 4), floats(4)),
    "matmul over two axes": (dot((1, 2), (2, 0)), floats(B, 3, 4), floats(4, 5, 3)),
    "matmul of several axes": (dot((1,), (1,)), floats(B, 3, 4), floats(5, 3, 6)),
    "batched": (dot((3,), (3,), (0, 2), (0, 2)), floats(B, 5, 2, 4), floats(B, 3, 2, 4)),
    "batched, a vector": (dot((1,), (1,), (0,), (0,)), floats(B, 4), floats(B, 4)),
    "batched, several axes": (dot((2,), (1,), (0,), (0,)), floats(B, 3, 4, 2), floats(B, 4, 5, 6)),
}


def converted(function, specs, folder):
    """The function of arrays by onnxruntime."""
    names = [f"x{i}" for i in range(len(specs))]
    jaxpr, outputs = jax.make_jaxpr(
        lambda *x: list(jax.tree.leaves(function(*x))), return_shape=True
    )(*specs)
    outputs = {f"y{i}": spec for i, spec in enumerate(outputs)}
    traced = Traced("case", jaxpr, (), dict(zip(names, specs, strict=True)), outputs)
    (folder / "weights").write_bytes(bytes([2, *[0] * 7]) + b"{}")
    write_onnx(traced, {}, folder / "case.onnx", folder / "weights")
    session = onnxruntime.InferenceSession(folder / "case.onnx")
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def arrays(specs, batch):
    rng = np.random.default_rng(0)
    for spec in specs:
        shape = [size if isinstance(size, int) else batch for size in spec.shape]
        is_float = spec.dtype == FLOAT
        values = rng.standard_normal(shape) if is_float else rng.integers(0, 3, shape)
        yield np.asarray(values, spec.dtype)


@pytest.mark.parametrize("case", CASES)
def test_as_in_jax(case, tmp_path):
    function, *specs = CASES[case]
    run = converted(function, specs, tmp_path)
    for batch in (1, 3):
        inputs = list(arrays(specs, batch))
        expected = jax.tree.leaves(jax.jit(function)(*inputs))
        for found, wanted in zip(run(*inputs), expected, strict=True):
            assert found.shape == wanted.shape and found.dtype == wanted.dtype
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_start_out_of_bounds_is_moved_as_in_jax(tmp_path):
    def function(x, i, y):
        new = lax.dynamic_update_slice_in_dim(y, jnp.ones((1, 4)), i, 0)
        return x, lax.dynamic_slice(y, (i, 0), (2, 4)), new

    run = converted(function, [floats(B), Spec((), INT), floats(3, 4)], tmp_path)
    x, y = np.ones(2, np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
    for start in (1, 2, 3, 9):
        i = np.array(start, np.int32)
        for found, wanted in zip(run(x, i, y), function(x, i, y), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: x.astype(INT) & 1, "and of bits"),
        (lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1)]), "pad"),
        (
            lambda x: lax.dynamic_update_slice(x, lax.slice_in_dim(x, 1, 3, axis=1), (0, 1)),
            "dynamic_update_slice",
        ),
    ],
)
def test_what_has_no_rule_is_named(function, operation, tmp_path):
    with pytest.raises(UserError, match=f"does not know JAX's operation {operation}.*stablehlo"):
        converted(function, [floats(B, 4)], tmp_path)
