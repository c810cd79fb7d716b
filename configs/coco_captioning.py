"""Captioning of COCO as in the paper: cross-entropy only, from a run of coca_base.

    coca data convert-annotations dataset_coco.json data/coco/train.jsonl --split train \
        --images coco
    coca data convert-annotations dataset_coco.json data/coco/test.jsonl --split test --images coco
    coca train --config configs/coco_captioning.py --workdir runs/coco

With `--config.loss.contrastive.weight=0.1` the embeddings stay of use: without, they are left out
of the model. No warm-up or weight decay is given for this task in the paper; these are as in its
other tasks. It reports CIDEr 143.6 (2.1B parameters). `:smoke` runs on `shapes`.
"""

from coca_jax.config.recipes import finetuning, finish_on_shapes


def get_config(argument=None):
    """The experiment; `argument` is None or `smoke`."""
    config = finetuning("base", 50_000, 128, learning_rate=1e-5, encoder=1e-5, decay=0.1)
    config.loss.contrastive.weight = 0.0
    config.loss.captioning.weight = 1.0
    config.data.train.path = "data/coco/train.jsonl"
    test = {"format": "folder", "path": "data/coco/test.jsonl"}
    config.eval = {
        "captioning": test | {"kind": "captioning", "method": "beam", "beams": 4},
        "retrieval": test | {"kind": "retrieval"},  # if the contrastive loss has a weight
    }
    return finish_on_shapes(config, argument)
