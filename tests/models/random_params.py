"""Parameters away from their initial values, whose zeros and ones would hide errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from coca_jax.models import init_params

MEANS = {"scale": 1.0, "logit_scale": 2.7, "logit_bias": -10.0}


def random_params(model, seed=0):
    """Random parameters of a model; the model is traced, but nothing is compiled."""
    shapes = jax.eval_shape(lambda: nn.meta.unbox(init_params(model, jax.random.key(0))))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        mean = MEANS.get(path[-1].key, 0.0)
        return jnp.float32(mean + 0.15 * rng.standard_normal(leaf.shape))

    return jax.tree_util.tree_map_with_path(fill, shapes)
