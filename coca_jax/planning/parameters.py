"""Numbers of parameters of a model by part, counted from shapes alone."""

import math
from collections import Counter
from collections.abc import Sequence

import flax.linen as nn
import jax

from coca_jax.models import CoCaConfig, init_params, lora, make_model


def parameter_counts(config: CoCaConfig) -> dict[str, int]:
    """Numbers of parameters by top-level part: `image_encoder`, `decoder`, poolers, the rest."""
    boxed = jax.eval_shape(lambda: init_params(make_model(config), jax.random.key(0)))
    counts: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(boxed)):
        counts[path[0].key] += math.prod(leaf.shape)
    return dict(counts)


def trained_count(config: CoCaConfig, rank: int, layers: Sequence[str], full: Sequence[str]) -> int:
    """The number of parameters that a run with LoRA trains: factors, and what is trained in full.

    Args:
      config: the model.
      rank: as of `lora.split`.
      layers: as of `lora.split`.
      full: as of `lora.split`.

    Raises:
      UserError: a pattern matches nothing.
    """
    key, model = jax.random.key(0), make_model(config)
    trained, _ = jax.eval_shape(
        lambda: lora.split(init_params(model, key), rank, layers, full, key)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained))
