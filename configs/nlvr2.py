"""Fine-tunes a run of coca_base on NLVR2 as in the paper: statements about two images.

    coca data convert-annotations train.json data/nlvr2/train.jsonl --images images/train
    coca data convert-annotations dev.json data/nlvr2/dev.jsonl --images dev
    coca train --config nlvr2 --workdir runs/nlvr2

The decoder reads the statement with each image; what one query pools of both is concatenated. The
weight decay is our choice; the paper gives none for this task. It reports 86.1% on dev (2.1B
parameters). `:smoke` runs a few steps on `shapes_pairs`.
"""

from coca_jax.config.recipes import finetuning, finish_on_shapes, with_head

FIELDS = ("statements", "truths")


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = finetuning("base", 50_000, 64, learning_rate=5e-4, encoder=2e-5, decay=0.1)
    with_head(config, "text", ("true", "false"))
    config.data.num_images = 2
    config.data.train.update(
        {"path": "data/nlvr2/train.jsonl", "captions": "questions", "questions": FIELDS}
    )
    config.eval = {
        "dev": {
            "kind": "classification",
            "format": "folder",
            "path": "data/nlvr2/dev.jsonl",
            "questions": FIELDS,
        }
    }
    return finish_on_shapes(config, argument, name="shapes_pairs")
