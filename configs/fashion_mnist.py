"""Trains a small CoCa on photographs of clothes, whose labels are the only texts.

    coca data prepare fashion_mnist
    coca train --config fashion_mnist --workdir runs/fashion
    coca evaluate --config fashion_mnist --workdir runs/fashion

The label of each of the 60,000 photographs is put into a random prompt, as the paper does with JFT;
the 10,000 test photographs are then classified by the texts of the ten classes. `:smoke` runs a few
steps.
"""

from coca_jax.config import default_config, finish

PROMPTS = ("a {}", "a photo of a {}", "a picture of a {}", "a {} on black", "this is a {}")


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = default_config()
    config.model.image.update({"size": 28, "patch": 4})
    config.model.text.update({"vocab_size": 259, "context_length": 34})
    config.optimizer.update({"name": "adamw", "b2": 0.99, "weight_decay": 0.1})
    config.train.steps = 2000
    config.train.batch_size = 96
    config.train.log_every = 50
    config.data.tokenizer.kind = "byte"
    config.data.train.update(
        {"name": "fashion_mnist", "prompts": PROMPTS, "min_crop_area": 0.8, "flip": True}
    )
    test = {"name": "fashion_mnist", "split": "test"}
    config.eval = {
        "zero_shot": test | {"kind": "zero_shot", "templates": PROMPTS},
        "captions": test
        | {"kind": "zero_shot", "scoring": "captions", "templates": ("a {}",), "limit": 2000},
    }
    smoke = {
        "model.image.num_layers": 1,
        "model.text.unimodal_layers": 1,
        "model.text.multimodal_layers": 1,
        "train.steps": 4,
        "train.batch_size": 16,
        "train.log_every": 2,
        "optimizer.warmup_steps": 2,
        "eval.zero_shot.limit": 64,
        "eval.captions.limit": 16,
    }
    return finish(config, argument, smoke)
