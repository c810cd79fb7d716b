"""The captioning loss against float64 formulas, on several meshes, and in the memory it takes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.losses import captioning_loss

N, T, D, V = 8, 6, 16, 24
# The mesh, and tokens of a chunk: one, a number that divides nothing, more than there are.
CASES = [((1, 1, 1), 5), ((8, 1, 1), 4096), ((2, 2, 2), 5), ((1, 2, 4), 1)]


def example(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, V, (N, T))
    for row, length in enumerate(rng.integers(1, T + 1, N)):
        ids[row, length:] = 0
    return rng.standard_normal((N, T, D)), rng.standard_normal((D, V)), ids.astype(np.int32)


def reference(x, kernel, ids):
    """Loss, accuracy and both gradients, token by token."""
    by_x, by_kernel = np.zeros_like(x), np.zeros_like(kernel)
    nats, hits = [], []
    for row, position in zip(*np.nonzero(ids[:, 1:]), strict=True):
        logits, target = x[row, position] @ kernel, ids[row, position + 1]
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        nats.append(-np.log(chances[target]))
        hits.append(logits.argmax() == target)
        slope = chances - np.eye(V)[target]
        by_x[row, position] = kernel @ slope
        by_kernel += np.outer(x[row, position], slope)
    return np.mean(nats), np.mean(hits), by_x / len(nats), by_kernel / len(nats)


def value_and_gradients(chunk_size):
    def loss(x, kernel, ids):
        return captioning_loss(x, kernel, ids, 0, chunk_size)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize(("mesh", "chunk_size"), CASES)
def test_it_is_the_formula_on_every_mesh(mesh, chunk_size):
    arrays = example()
    partitioner = Partitioner(make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))))
    with partitioner.context():
        inputs = jnp.float32(arrays[0]), jnp.float32(arrays[1]), jnp.array(arrays[2])
        (loss, accuracy), gradients = value_and_gradients(chunk_size)(*inputs)
    expected = reference(*arrays)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    np.testing.assert_allclose(accuracy, expected[1], rtol=1e-6)
    for found, wanted in zip(gradients, expected[2:], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_loss_alone_is_the_same_and_its_gradient_scales():
    x, kernel, ids = (jnp.float32(a) if a.dtype == float else jnp.array(a) for a in example(1))
    (loss, _), gradients = value_and_gradients(7)(x, kernel, ids)
    alone, _ = jax.jit(lambda *a: captioning_loss(*a, 0, 7))(x, kernel, ids)
    np.testing.assert_allclose(alone, loss, rtol=1e-6)
    tripled = jax.jit(jax.grad(lambda k: 3 * captioning_loss(x, k, ids, 0, 7)[0]))(kernel)
    np.testing.assert_allclose(tripled, 3 * gradients[1], rtol=1e-5, atol=1e-7)


def test_further_padding_changes_nothing():
    x, kernel, ids = example()
    longer = np.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=9.0)
    padded = np.pad(ids, ((0, 0), (0, 3)))
    losses = [
        captioning_loss(jnp.float32(a), jnp.float32(kernel), jnp.array(b), 0)
        for a, b in ((x, ids), (longer, padded))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_nothing_to_predict_is_zero():
    nothing = jnp.zeros((1, 3), jnp.int32)
    loss, accuracy = captioning_loss(jnp.ones((1, 3, 4)), jnp.ones((4, 5)), nothing, 0)
    assert loss == 0 and accuracy == 0


def plain(x, kernel, ids):
    logits = jnp.einsum("ntd,dv->ntv", x, kernel)[:, :-1]
    chosen = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(jnp.where(ids[:, 1:] != 0, nats, 0)), jnp.zeros(())


def largest_array(compiled):
    """Elements of the largest array in a compiled program on one device."""
    shapes = re.findall(r"(?:f32|bf16|s32|pred|f64)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(d) for d in shape.split(",")])) for shape in shapes)


@pytest.mark.parametrize("mesh", [(2, 2, 2)])
def test_no_device_ever_holds_the_logits_of_all_its_tokens(mesh):
    n, t, d, v, chunk_size = 32, 16, 8, 1024, 32
    partitioner = Partitioner(make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))))
    shapes = [
        ((n, t, d), jnp.float32, True),
        ((d, v), jnp.float32, False),
        ((n, t), jnp.int32, True),
    ]
    arguments = [
        jax.ShapeDtypeStruct(
            shape, dtype, sharding=partitioner.batch if rows else partitioner.replicated
        )
        for shape, dtype, rows in shapes
    ]
    batch, tensor = partitioner.batch_shards, mesh[2]
    with partitioner.context():
        ours = value_and_gradients(chunk_size).lower(*arguments).compile()
        literal = jax.jit(jax.value_and_grad(plain, argnums=(0, 1), has_aux=True))
        theirs = literal.lower(*arguments).compile()
    assert largest_array(ours) <= max(chunk_size * v // tensor, d * v, n * t * d // batch)
    assert largest_array(theirs) >= n * (t - 1) * v // (batch * tensor)
