import dataclasses
from types import SimpleNamespace

import pytest

from coca_jax.accelerators import ALL_LAYERS
from coca_jax.config import build, default_config, model_config
from coca_jax.models import PRESETS

CPU = SimpleNamespace(device_kind="cpu")
H100 = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", compute_capability="9.0")


@pytest.mark.parametrize(
    ("device", "changes", "dtype", "attention"),
    [
        (CPU, {}, "float32", "xla"),
        (H100, {}, "bfloat16", "cudnn"),
        (H100, {"model.dtype": "float32"}, "float32", "xla"),
        (H100, {"model.text.width": 136, "model.text.num_heads": 34}, "bfloat16", "xla"),
        (H100, {"model.pooler.num_heads": 32}, "bfloat16", "xla"),
        (H100, {"model.image.width": 256, "model.image.num_heads": 1}, "bfloat16", "xla"),
        (H100, {"model.attention": "xla"}, "bfloat16", "xla"),
        (CPU, {"model.dtype": "bfloat16", "model.attention": "cudnn"}, "bfloat16", "cudnn"),
    ],
)
def test_what_is_auto_is_resolved_for_the_device(device, changes, dtype, attention):
    config = default_config()
    config.update_from_flattened_dict(changes)
    for tree in (config, build(config)):
        model = model_config(tree, device)
        assert (model.dtype, model.attention) == (dtype, attention)


def test_the_model_follows_from_the_losses():
    config = default_config()
    config.update_from_flattened_dict(
        {
            "loss.contrastive.weight": 0.0,
            "loss.classification.weight": 1.0,
            "head.classes": ("a", "b"),
            "data.num_images": 2,
        }
    )
    model = model_config(build(config), CPU)
    assert (model.contrastive, model.captioning) == ("none", True)
    assert dataclasses.astuple(model.head) == (2, "image", 2)
    assert dataclasses.replace(model, contrastive="softmax", head=None) == PRESETS["mini"]


@pytest.mark.parametrize(
    ("device", "changes", "unroll"),
    [
        (H100, {}, ALL_LAYERS),
        (H100, {"model.remat": "full"}, 1),
        (H100, {"model.remat": "full", "model.text.remat": "none"}, ALL_LAYERS),
        (H100, {"model.image.remat": "full", "model.text.remat": "full"}, 1),
        (H100, {"model.remat": "full", "model.scan_unroll": 4}, 4),
        (CPU, {}, 1),
        (CPU, {"model.scan_unroll": 4}, 4),
    ],
)
def test_layers_are_unrolled_where_a_scan_would_stack_what_is_kept(device, changes, unroll):
    config = default_config()
    config.update_from_flattened_dict({"model.scan_unroll": 0} | changes)
    assert model_config(config, device).scan_unroll == unroll
