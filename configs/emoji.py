"""Trains a small CoCa on emoji of two drawing styles, and evaluates it on a third.

    coca data prepare emoji
    coca train --config emoji --workdir runs/emoji
    coca evaluate --config emoji --workdir runs/emoji

It trains on 3,779 images (Google's and Fluent 3D's drawings, with names and keywords) and retrieves
the 1,911 names of the same concepts for Twitter's drawings, which it has never seen. This takes
about 11 minutes on two CPU cores. `:smoke` runs a few steps.
"""

from coca_jax.config import default_config, finish


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = default_config()
    config.model.image.update({"size": 64, "patch": 8, "num_layers": 3, "mlp_dim": 384})
    config.model.text.update({"vocab_size": 3000, "context_length": 24, "mlp_dim": 384})
    config.model.pooler.caption_queries = 32
    config.model.dropout = 0.1
    config.optimizer.update({"name": "adamw", "b2": 0.98, "weight_decay": 0.1})
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 1000
    config.train.batch_size = 96
    config.train.log_every = 20
    config.data.train.update({"name": "emoji", "min_crop_area": 0.6, "flip": True})
    test = {"name": "emoji", "split": "test"}
    config.eval = {
        "retrieval": test | {"kind": "retrieval", "captions": "first"},
        "captioning": test | {"kind": "captioning"},
        "group": test | {"kind": "zero_shot", "templates": ("an emoji, from {}",)},
    }
    smoke = {
        "model.image.num_layers": 1,
        "model.text.unimodal_layers": 1,
        "model.text.multimodal_layers": 1,
        "train.steps": 4,
        "train.batch_size": 16,
        "train.log_every": 2,
        "optimizer.warmup_steps": 2,
        "eval.retrieval.limit": 64,
        "eval.captioning.limit": 16,
        "eval.group.limit": 64,
    }
    return finish(config, argument, smoke)
