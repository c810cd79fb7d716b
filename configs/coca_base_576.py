"""CoCa-Base (383M parameters) at 576 pixels, from a run of `coca_base`.

    coca train --config coca_base_576 --workdir runs/base_576 \\
        --config.init.path=runs/base \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

The paper says little of this epoch: learning rate and steps are our choice; see `high_resolution`
in `coca_jax/config/recipes.py`. `:smoke` trains a shrunk model for a few steps on the built-in
synthetic data (`shapes`), from random parameters, or with `init.path` from a smoke run.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import HIGH_RESOLUTION_SMOKE, high_resolution


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(high_resolution("base"), argument, HIGH_RESOLUTION_SMOKE)
