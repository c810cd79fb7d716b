"""Numbers of parameters of a model by part, counted from shapes alone."""

import math
from collections import Counter

import flax.linen as nn
import jax

from coca_jax.models import CoCaConfig, init_params, make_model


def parameter_counts(config: CoCaConfig) -> dict[str, int]:
    """Numbers of parameters by top-level part: `image_encoder`, `decoder`, poolers, the rest."""
    boxed = jax.eval_shape(lambda: init_params(make_model(config), jax.random.key(0)))
    counts: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(boxed)):
        counts[path[0].key] += math.prod(leaf.shape)
    return dict(counts)
