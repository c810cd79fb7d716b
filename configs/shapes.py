"""The embedded default: a small CoCa on generated scenes of coloured shapes.

    coca data prepare shapes
    coca train --config configs/shapes.py --workdir runs/shapes

`:smoke` runs a few steps of a smaller model, to see that everything works.
"""

from coca_jax.config import default_config, finish


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = default_config()
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.1
    config.train.steps = 1000
    config.train.batch_size = 96
    config.eval = {
        "zero_shot": {
            "kind": "zero_shot",
            "name": "shapes",
            "split": "test",
            "templates": ("a {}",),
        },
        "zero_shot_novel": {
            "kind": "zero_shot",
            "name": "shapes",
            "split": "test_novel",
            "templates": ("a {}",),
        },
        "retrieval": {
            "kind": "retrieval",
            "name": "shapes",
            "split": "test",
            "limit": 1000,
            "captions": "first",
        },
        "captioning": {"kind": "captioning", "name": "shapes", "split": "test", "limit": 500},
    }
    smoke = {
        "model.image.layers": 1,
        "model.text.unimodal_layers": 1,
        "model.text.multimodal_layers": 1,
        "train.steps": 8,
        "train.batch_size": 16,
        "train.log_every": 2,
        "optimizer.warmup_steps": 2,
        "eval.zero_shot.limit": 64,
        "eval.zero_shot_novel.limit": 64,
        "eval.retrieval.limit": 64,
        "eval.captioning.limit": 16,
    }
    return finish(config, argument, smoke)
