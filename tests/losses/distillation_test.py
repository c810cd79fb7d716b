"""The distillation loss against a float64 formula, on several meshes and in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses.contrastive_test import CASES, check, embeddings, partitioner

from coca_jax.losses.distillation import distillation_loss


def softmax(x, axis):
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def reference(x, y, scale, teacher_x, teacher_y):
    logits, targets = scale * x @ y.T, teacher_x @ teacher_y.T
    total = 0.0
    for axis in (0, 1):
        q, p = softmax(logits, axis), softmax(targets, axis)
        total += (p * np.log(p / q)).sum()
    return total / len(x)


def teacher(count):
    x, y = embeddings(count, 4)
    return 9.0 * x[:, ::-1], y


@pytest.mark.parametrize(("mesh", "chunk_size"), CASES)
def test_the_loss_is_the_formula_on_every_mesh(mesh, chunk_size):
    x, y = embeddings(8, 3)
    of_teacher = teacher(8)
    fixed = {
        "teacher_images": jnp.float32(of_teacher[0]),
        "teacher_texts": jnp.float32(of_teacher[1]),
    }
    loss = functools.partial(distillation_loss, chunk_size=chunk_size, **fixed)
    agreement = check(loss, lambda *a: reference(*a, *of_teacher), (x, y, 14.3), mesh)
    same = (x @ y.T).argmax(axis=1) == (of_teacher[0] @ of_teacher[1].T).argmax(axis=1)
    np.testing.assert_allclose(agreement, same.mean())


def test_nothing_is_left_to_learn_from_an_equal_teacher():
    x, y = map(jnp.float32, embeddings(6, 3))
    arrays = x, y, jnp.float32(7.0)
    function = jax.value_and_grad(
        lambda x, y, s: distillation_loss(x, y, s, arrays[2] * arrays[0], arrays[1])[0], (0, 1, 2)
    )
    with partitioner((1, 1, 1)).context():
        loss, gradients = function(*arrays)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
