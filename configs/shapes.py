"""Trains a small CoCa on built-in synthetic data: scenes of colored shapes, with captions.

    coca data prepare shapes
    coca train --config shapes --workdir runs/shapes

`:smoke` runs a few steps of a smaller model, to see that everything works.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_SMOKE, shapes_training


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_training(steps=1000)
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
    smoke = SHAPES_SMOKE | {
        "eval.zero_shot.limit": 64,
        "eval.zero_shot_novel.limit": 64,
        "eval.retrieval.limit": 64,
        "eval.captioning.limit": 16,
    }
    return finish(config, argument, smoke)
