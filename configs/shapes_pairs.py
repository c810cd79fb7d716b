"""Fine-tunes a run of `shapes` on statements about two images, as in NLVR2.

    coca data prepare shapes_pairs
    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_pairs --workdir runs/pairs

The decoder reads the statement with each image; a head concatenates what it pools of both. `:smoke`
runs a few steps of a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning, with_head

FIELDS = ("statements", "truths")


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    # At 1e-3 nothing is learned of the first 24,000 examples, here of the first 10,000.
    config = shapes_finetuning(steps=1000, batch_size=32, learning_rate=3e-4)
    with_head(config, "text", ("true", "false"))
    config.model.text.context_length = 18  # of the longest statement, begin and end included
    config.data.num_images = 2
    config.data.train.update({"name": "shapes_pairs", "captions": "questions", "questions": FIELDS})
    config.eval = {
        split.replace("test", "pairs"): {
            "kind": "classification",
            "name": "shapes_pairs",
            "split": split,
            "questions": FIELDS,
        }
        for split in ("test", "test_novel")
    }
    smoke = {f"eval.{name}.limit": 8 for name in config.eval}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
