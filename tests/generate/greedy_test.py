import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.generate import greedy
from coca_jax.models import PRESETS, CoCa, init_params

CONFIG = PRESETS["tiny"]
BOS, LENGTH = 2, 12


@functools.cache
def model_and_params():
    model = CoCa(CONFIG)
    params = jax.jit(lambda: nn.meta.unbox(init_params(model, jax.random.key(0))))()
    # From the initial parameters all captions are alike; these make them differ.
    params["decoder"]["softmax"] = params["decoder"]["softmax"] * 3
    params["decoder"]["embedding"] = params["decoder"]["embedding"] * 40
    return model, params


def whole_prefix(pixels, eos):
    """Greedy decoding that runs the whole model on the whole prefix for each token."""
    model, params = model_and_params()
    logits_of = jax.jit(
        lambda pixels, ids: model.apply({"params": params}, pixels, ids, method="caption_logits")
    )
    ids = np.full((len(pixels), LENGTH), CONFIG.text.pad_id, np.int32)
    ids[:, 0] = BOS
    total = np.zeros(len(pixels))
    for position in range(1, LENGTH):
        logits = np.asarray(logits_of(pixels, ids)[:, position - 1], np.float64)
        nats = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        allowed = nats.copy()
        allowed[:, [CONFIG.text.pad_id, BOS]] = -np.inf
        for row, token in enumerate(allowed.argmax(-1)):
            if eos not in ids[row]:
                ids[row, position] = token
                total[row] += nats[row, token]
    return ids, total


def test_cached_decoding_equals_running_the_whole_prefix():
    model, params = model_and_params()
    pixels = jnp.float32(np.random.default_rng(0).standard_normal((6, 16, 16, 3)) * 2)
    eos = int(whole_prefix(pixels, eos=-1)[0][0, 5])  # so that some caption ends early
    decode = jax.jit(functools.partial(greedy, model, bos_id=BOS, eos_id=eos, length=LENGTH))
    made = decode(params, pixels)
    ids, total = whole_prefix(pixels, eos)
    assert len(np.unique(ids, axis=0)) > 2
    assert (ids[0] != CONFIG.text.pad_id).sum() <= 6
    np.testing.assert_array_equal(made.ids, ids)
    np.testing.assert_allclose(made.log_probabilities, total, rtol=1e-4)
