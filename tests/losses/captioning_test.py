import jax.numpy as jnp
import numpy as np

from coca_jax.losses import captioning_accuracy, captioning_loss

IDS = np.array([[2, 5, 3, 0], [2, 4, 5, 3]], np.int32)


def logits():
    return np.random.default_rng(0).standard_normal((2, 4, 7))


def test_loss_is_the_mean_over_real_next_tokens():
    x, nats = logits(), []
    for row, position in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]:
        scores = x[row, position]
        nats.append(-np.log(np.exp(scores[IDS[row, position + 1]]) / np.exp(scores).sum()))
    loss = captioning_loss(jnp.float32(x), jnp.array(IDS), 0)
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-6)


def test_further_padding_changes_nothing():
    x = jnp.float32(logits())
    longer = jnp.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=9.0)
    ids = jnp.pad(jnp.array(IDS), ((0, 0), (0, 3)))
    assert captioning_loss(x, jnp.array(IDS), 0) == captioning_loss(longer, ids, 0)


def test_nothing_to_predict_is_zero():
    assert captioning_loss(jnp.ones((1, 3, 4)), jnp.zeros((1, 3), jnp.int32), 0) == 0


def test_accuracy():
    x = np.zeros((2, 4, 7), np.float32)
    for row, position, guess in [(0, 0, 5), (0, 1, 6), (1, 0, 4), (1, 1, 5), (1, 2, 3), (1, 3, 6)]:
        x[row, position, guess] = 1
    np.testing.assert_allclose(captioning_accuracy(jnp.array(x), jnp.array(IDS), 0), 4 / 5)
