"""CoCa-Large (787M parameters) at 576 pixels, from a run of `configs/coca_large.py`.

    coca train --config configs/coca_large_576.py --workdir runs/large_576 \\
        --config.init.path=runs/large \\
        --config.data.train.name=my_pairs --config.data.tokenizer.path=my_64k.model

What the paper does not say of this epoch, learning rate and steps among it, is our choice; see
`high_resolution` in `coca_jax/config/recipes.py`. `:smoke` trains a few steps of the same parts,
shrunk, on the embedded `shapes`, from random parameters or from a smoke run of that file.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import HIGH_RESOLUTION_SMOKE, high_resolution


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    return finish(high_resolution("large"), argument, HIGH_RESOLUTION_SMOKE)
