"""Fine-tunes a run of `shapes` on captioning, with a small contrastive loss.

    coca train --config shapes --workdir runs/shapes
    coca train --config shapes_captioning --workdir runs/captioning

The contrastive loss keeps retrieval: with `--config.loss.contrastive.weight=0` the model has no
embeddings. `:smoke` runs a few steps of a smaller model, from random parameters.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_TASK_SMOKE, shapes_finetuning


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = shapes_finetuning(steps=1500, batch_size=32)
    # Without these, combinations that training never showed often get captions of those it did.
    config.model.stochastic_depth = 0.2
    config.optimizer.weight_decay = 1.0
    config.loss.contrastive.weight = 0.1
    config.loss.captioning.weight = 1.0
    test, novel = ({"name": "shapes", "split": split} for split in ("test", "test_novel"))
    config.eval = {
        "captioning": test | {"kind": "captioning", "limit": 500},
        "captioning_novel": novel | {"kind": "captioning", "limit": 500},
        "retrieval": test | {"kind": "retrieval", "limit": 1000, "captions": "first"},
        "zero_shot": test | {"kind": "zero_shot", "templates": ("a {}",)},
    }
    smoke = {f"eval.{name}.limit": 16 for name in ("captioning", "captioning_novel", "retrieval")}
    return finish(config, argument, SHAPES_TASK_SMOKE | smoke)
