"""Trains a new text tower for the frozen image tower of a run: LiT (arXiv 2111.07991).

    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_lit --workdir runs/lit

Only the image encoder's parameters come from the run of `configs/shapes.py`; poolers and decoder
start from random ones. `:smoke` runs a few steps of a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_finetuning(steps=1000)
    config.init.only = r"image_encoder/.*"
    config.optimizer.learning_rates = ((r"image_encoder/.*", 0.0), (r".*", 1.0))
    config.loss.captioning.weight = 0.0
    test = {"name": "shapes", "split": "test"}
    config.eval = {
        "zero_shot": test | {"kind": "zero_shot", "templates": ("a {}",)},
        "retrieval": test | {"kind": "retrieval", "limit": 1000, "captions": "first"},
    }
    smoke = {"init.only": ".*", "eval.retrieval.limit": 64}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
