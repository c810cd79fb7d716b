"""Trains a small CoCa on wide and tall pages, whose captions list small shapes in their order.

    coca data prepare shapes_pages
    coca train --config shapes_pages:native --workdir runs/pages

`:native` takes images as they are: each has a grid of patches of its own, at most 16 of them.
`:squash` stretches each image to 64 x 64 pixels, and `:pad` fits it into them: 16 patches, too, so
that all three train with the same tokens a step. `:smoke` runs a few steps of `:native`.
"""

from coca_jax.config import finish
from coca_jax.config.recipes import SHAPES_SMOKE, shapes_training

SIZES = {
    "native": {"sequence_lengths": (16,)},
    "squash": {"resize_mode": "squash"},
    "pad": {"resize_mode": "longest", "fill_color": 255},
}


def get_config(argument=None):
    """The experiment; `argument` is None, `native`, `squash`, `pad` or `smoke`."""
    config = shapes_training(steps=1500)
    config.model.image.update({"size": 64, "patch": 16})
    config.model.image.update(SIZES.get(argument, SIZES["native"]))
    config.model.text.context_length = 20
    config.data.train.name = "shapes_pages"
    config.eval = {"captioning": {"kind": "captioning", "name": "shapes_pages", "split": "test"}}
    smoke = SHAPES_SMOKE | {"eval.captioning.limit": 16}
    return finish(config, argument, smoke, SIZES)
