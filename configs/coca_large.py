"""CoCa-Large (787M parameters) with the paper's recipe; see `coca_jax/config/recipes.py`.

    coca params --config configs/coca_large.py
    coca train --config configs/coca_large.py --workdir runs/large \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

`:smoke` trains a shrunk model for a few steps on the built-in synthetic data (`shapes`).
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SMOKE, pretraining


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(pretraining("large"), argument, SMOKE)
