"""CoCa (2.1B parameters) at 576 pixels, from a run of `coca_2b`.

    coca train --config coca_2b_576 --workdir runs/2b_576 \\
        --config.init.path=runs/2b \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

The paper says little of this epoch: learning rate and steps are our choice; see `high_resolution`
in `coca_jax/config/recipes.py`. `:smoke` trains a shrunk model for a few steps on the built-in
synthetic data (`shapes`), from random parameters, or with `init.path` from a smoke run.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import HIGH_RESOLUTION_SMOKE, high_resolution


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(high_resolution("2b"), argument, HIGH_RESOLUTION_SMOKE)
