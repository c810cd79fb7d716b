"""Fine-tunes a run of coca_base on ImageNet as in the paper, with a new pooler of one query.

    coca train --config imagenet:frozen --workdir runs/imagenet_frozen
    coca train --config imagenet --workdir runs/imagenet

`data/imagenet/train` and `val` must have a folder for each class, and `data/imagenet/classes.txt`
the names of the classes, in the order of the folders. `:frozen` trains only the pooler and the
softmax layer. The paper gives the pooler's learning rate; the encoder's, a tenth of it falling by
0.9 from layer to layer toward the pixels, is our choice. The paper reports 90.6% frozen and 91.0%
fine-tuned (2.1B parameters, 576 pixels). `:smoke` runs a few steps on `shapes`.
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
    return finish_on_shapes(config, argument, others=("frozen",), classes=SMOKE_CLASSES)
