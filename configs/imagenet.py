"""Classification of ImageNet as in the paper: a new pooler of one query, from a run of coca_base.

    coca train --config configs/imagenet.py:frozen --workdir runs/imagenet_frozen
    coca train --config configs/imagenet.py --workdir runs/imagenet

Needs a folder for each class in `data/imagenet/train` and `val`, and their names, in the order of
the folders, in `data/imagenet/classes.txt`. Frozen, only the pooler and the softmax learn. For
fine-tuning the paper gives the pooler's rate; that the encoder has a tenth of it, falling by 0.9
from layer to layer towards the pixels, is ours. The paper: 90.6% frozen, 91.0% (2.1B parameters, at
576 pixels). `:smoke` runs on `shapes`.
"""

from coca_jax.config.recipes import finetuning, finish_on_shapes, with_head

SMOKE_CLASSES = tuple(str(number) for number in range(64))


def get_config(argument=None):
    """The experiment; `argument` is None, `frozen` or `smoke`."""
    frozen = argument == "frozen"
    config = finetuning("base", 200_000, 512, learning_rate=5e-4, encoder=5e-5, decay=0.01)
    with_head(config, "image", (), label_smoothing=0.2 if frozen else 0.5)
    config.optimizer.ema_decay = 0.9999
    if frozen:
        config.optimizer.learning_rates = ((r"head.*", 1.0), (r".*", 0.0))
    else:
        config.optimizer.layer_decay = 0.9
    config.head.class_file = "data/imagenet/classes.txt"
    config.data.train.update(
        {
            "path": "data/imagenet/train",
            "captions": "none",
            "min_crop_area": 0.25,
            "flip": True,
            "randaugment": (2, 20),
        }
    )
    config.eval = {
        "val": {"kind": "classification", "format": "folder", "path": "data/imagenet/val"}
    }
    return finish_on_shapes(config, None if frozen else argument, classes=SMOKE_CLASSES)
