"""Compares the objectives on photographs: contrastive, sigmoid, captioning and CoCa.

    coca data prepare fashion_mnist
    coca compare --config compare_fashion_mnist --workdir runs/compare_fashion

Each is evaluated by its accuracy on test photographs: on 10,000 by the embeddings of the classes'
texts, on 2,000 by their probability as captions. `:smoke` runs a few steps of two rows.
"""

from ml_collections import ConfigDict

from coca_jax.config import load_config


def get_config(argument=None):
    """The sweep; `argument` is None or `smoke`."""
    stage = load_config(f"fashion_mnist:{argument or ''}")
    config = load_config(f"compare:{argument or 'objectives'}")
    if not argument:
        stage.train.steps = 500
    config.stages = ConfigDict({"pretraining": stage})
    config.metrics = (
        ("zero-shot by embeddings", "pretraining", "zero_shot/top1"),
        ("zero-shot by captions", "pretraining", "captions/top1"),
    )
    return config
