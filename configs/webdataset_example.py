"""An example to start from with your own WebDataset tars, such as img2dataset writes.

    coca data inspect --config webdataset_example \\
        --config.data.train.path='shards/{00000..00003}.tar'
    coca train --config webdataset_example --workdir runs/mine \\
        --config.data.train.path='shards/{00000..00003}.tar'

The model is OpenCLIP's coca_ViT-B-32 with its vocabulary: no tokenizer has to be trained first, and
`--config.init.path` can name its converted weights. Batch and steps are for one GPU. `:smoke` runs
a few steps of a tiny model on the same tars.
"""

from ml_collections import ConfigDict

from coca_jax.config import default_config, finish
from coca_jax.config.recipes import SMOKE
from coca_jax.models.presets import preset


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = default_config()
    config.model = ConfigDict(preset("open_clip_vit_b_32"))
    config.optimizer.update({"learning_rate": 5e-4, "warmup_steps": 2000, "name": "adamw"})
    config.optimizer.update({"b2": 0.98, "weight_decay": 0.2, "schedule": "cosine"})
    config.train.update({"steps": 100_000, "batch_size": 512, "log_every": 50})
    config.checkpoint.every = 1000
    config.data.tokenizer.kind = "clip"
    config.data.train.update(
        {"format": "webdataset", "path": "shards/{00000..00003}.tar", "min_crop_area": 0.9}
    )
    config.data.threads = 8
    kept = ("model.text.vocab_size", "data.train.name")
    return finish(config, argument, {k: v for k, v in SMOKE.items() if k not in kept})
