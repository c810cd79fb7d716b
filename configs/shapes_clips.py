"""Fine-tunes a run of `shapes` to classify short clips: video by frames.

    coca data prepare shapes_clips
    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_clips --workdir runs/clips

Each frame is encoded on its own, and a head with one query reads all tokens of all frames.
Retrieval of clips needs no training: `configs/shapes_zero_shot.py` evaluates it. `:smoke` runs a
few steps of a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning, with_head

CLASSES = (
    *("moves left", "moves right", "moves up", "moves down"),
    *("grows", "shrinks", "stays"),
)


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_finetuning(steps=300)
    with_head(config, "image", CLASSES)
    config.data.num_images = 8
    config.data.train.update({"name": "shapes_clips", "captions": "none"})
    config.eval = {
        split.replace("test", "clips"): {
            "kind": "classification",
            "name": "shapes_clips",
            "split": split,
        }
        for split in ("test", "test_novel")
    }
    smoke = {f"eval.{name}.limit": 8 for name in config.eval}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
