import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.losses import classification_loss


def by_hand(logits, labels, smoothing):
    """In float64, example by example."""
    nats, right = [], []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        if label < 0:
            continue
        logp = row - np.log(np.exp(row).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        nats.append(-(target * logp).sum())
        right.append(row.argmax() == label)
    return np.mean(nats), np.mean(right)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_against_float64(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((9, 5)).astype(np.float32)
    labels = np.array([0, 4, -1, 2, 2, 3, -1, 1, 0], np.int32)
    found = classification_loss(jnp.array(logits), jnp.array(labels), smoothing)
    np.testing.assert_allclose(found, by_hand(logits, labels, smoothing), rtol=1e-6)


def test_without_labels_there_is_no_loss_and_no_gradient():
    logits, labels = jnp.ones((3, 4)), jnp.full(3, -1)
    loss, gradient = jax.value_and_grad(lambda x: classification_loss(x, labels)[0])(logits)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)
