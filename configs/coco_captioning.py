"""Fine-tunes a run of coca_base on captioning of COCO as in the paper: cross-entropy only.

    coca data convert-annotations dataset_coco.json data/coco/train.jsonl --split train \
        --images coco
    coca data convert-annotations dataset_coco.json data/coco/test.jsonl --split test --images coco
    coca train --config coco_captioning --workdir runs/coco

The model then has no embeddings; `--config.loss.contrastive.weight=0.1` keeps them. The paper gives
no warm-up and no weight decay for this task; they are those of its other tasks. It reports CIDEr
143.6 (2.1B parameters). `:smoke` runs a few steps on `shapes`.
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
