"""Fine-tunes a run of `shapes`, with a new pooler, to classify single shapes.

    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_classification --workdir runs/classification

The paper's recipe in small: label smoothing, a moving average of the parameters, and learning rates
that fall toward the pixels; crops and flips in place of RandAugment, which would change colors.
`:frozen` trains only the pooler and the softmax layer; `:smoke` runs a few steps of a smaller
model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning, with_head

COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "black")
KINDS = ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "crescent")


def get_config(argument=None):
    """The experiment; `argument` is None, `frozen` or `smoke`."""
    config = shapes_finetuning(steps=2000)
    classes = [f"{color} {kind}" for color in COLORS for kind in KINDS]
    frozen = argument == "frozen"
    with_head(config, "image", classes, label_smoothing=0.2 if frozen else 0.5)
    if frozen:
        config.optimizer.learning_rates = ((r"head.*", 1.0), (r".*", 0.0))
    else:
        config.optimizer.layer_decay = 0.75
    config.optimizer.ema_decay = 0.99
    # Only scenes with one shape have a label; colors must stay what they are.
    config.data.train.update({"captions": "none", "min_crop_area": 0.6, "flip": True})
    config.data.train.color_jitter = (0.1, 0.1, 0.1, 0.0)
    config.eval = {"test": {"kind": "classification", "name": "shapes", "split": "test"}}
    smoke = {"eval.test.limit": 32}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke, ("frozen",))
