"""CoCa-Base (383M parameters) with the paper's recipe.

    coca params --config coca_base
    coca train --config coca_base --workdir runs/base \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

The recipe is `pretraining` of `coca_jax.config.recipes`. `:smoke` trains a shrunk model for a few
steps on the built-in synthetic data (`shapes`).
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SMOKE, pretraining


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(pretraining("base"), argument, SMOKE)
