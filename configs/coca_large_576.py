"""CoCa-Large (787M parameters) at 576 pixels, from a run of `coca_large`.

    coca train --config coca_large_576 --workdir runs/large_576 \\
        --config.init.path=runs/large \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

The paper says little of this epoch: learning rate and steps are our choice; see `high_resolution`
in `coca_jax/config/recipes.py`. `:smoke` trains a shrunk model for a few steps on the built-in
synthetic data (`shapes`), from random parameters, or with `init.path` from a smoke run.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import HIGH_RESOLUTION_SMOKE, high_resolution


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(high_resolution("large"), argument, HIGH_RESOLUTION_SMOKE)
