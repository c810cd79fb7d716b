import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.losses import contrastive_accuracy, sigmoid_loss, softmax_loss


def embeddings(count=6, size=5):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, count, size))
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True)  # noqa: E731
    return unit(x), unit(x + y)


def softmax_reference(x, y, scale):
    """Equation 4 of the paper, term by term."""
    total = 0.0
    for i in range(len(x)):
        total -= np.log(np.exp(scale * x[i] @ y[i]) / sum(np.exp(scale * x[i] @ t) for t in y))
        total -= np.log(np.exp(scale * y[i] @ x[i]) / sum(np.exp(scale * y[i] @ t) for t in x))
    return total / len(x)


def sigmoid_reference(x, y, scale, bias):
    """Algorithm 1 of the SigLIP paper, pair by pair."""
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            sign = 1 if i == j else -1
            total -= np.log(1 / (1 + np.exp(-sign * (scale * x[i] @ y[j] + bias))))
    return total / len(x)


@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_softmax_loss(scale):
    x, y = embeddings()
    args = jnp.float32(x), jnp.float32(y), jnp.float32(scale)
    expected = softmax_reference(x, y, scale)
    np.testing.assert_allclose(softmax_loss(*args), expected, rtol=1e-5)
    np.testing.assert_allclose(softmax_loss(*args, "mean"), expected / 2, rtol=1e-5)


def test_sigmoid_loss():
    x, y = embeddings()
    loss = sigmoid_loss(jnp.float32(x), jnp.float32(y), jnp.float32(10), jnp.float32(-3))
    np.testing.assert_allclose(loss, sigmoid_reference(x, y, 10, -3), rtol=1e-5)


def test_gradients_equal_central_differences():
    x, y = embeddings(4, 3)
    gradient = jax.grad(softmax_loss)(jnp.float32(x), jnp.float32(y), jnp.float32(5))
    for i, j in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i, j] = 1e-5
        slope = softmax_reference(x + step, y, 5) - softmax_reference(x - step, y, 5)
        np.testing.assert_allclose(gradient[i, j], slope / 2e-5, rtol=1e-3, atol=1e-5)


def test_accuracy_counts_both_directions():
    images = jnp.array([[1.0, 0], [0, 1], [0, 1]])
    texts = jnp.array([[1.0, 0], [0, 1], [1, 0]])
    # Image to text: 0 and 1 find theirs, 2 finds text 1. Text to image: 0 and 1 do, 2 finds 0.
    np.testing.assert_allclose(contrastive_accuracy(images, texts), 2 / 3)
