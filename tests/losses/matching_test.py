import types

import jax.numpy as jnp
import numpy as np

from coca_jax.losses.matching import MatchingLoss


def test_loss_and_accuracy_are_means_over_pairs_of_those_that_exist():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((5, 4))
    mask = rng.random((5, 4)) < 0.6
    mask[:, 0] = True
    output = types.SimpleNamespace(
        matching_logits=jnp.float32(logits), matching_mask=jnp.array(mask)
    )
    loss, metrics = MatchingLoss()(output, {})
    nats, hits = [], []
    for row, there in zip(logits, mask, strict=True):
        right = 1 / (1 + np.exp(-row))  # the probability that they belong together
        chosen = np.concatenate([right[:1], 1 - right[1:]])[there]
        nats.append(-np.log(chosen).mean())
        hits.append((chosen > 0.5).mean())
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-6)
    np.testing.assert_allclose(metrics["matching_accuracy"], np.mean(hits), rtol=1e-6)
