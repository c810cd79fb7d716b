"""OpenCLIP's CoCa with random weights, by which captions differ from image to image and end."""

import math

import numpy as np
from safetensors.numpy import save_file

from coca_jax.interop import open_clip
from coca_jax.interop.convert import import_open_clip
from coca_jax.models import PRESETS

BOS, EOS, PAD = 49406, 49407, 0


def convert(variant, folder, report=lambda line: None):
    """Writes weights of a variant and converts them; returns the converted model's folder."""
    rng = np.random.default_rng(0)
    shapes = open_clip.expected_shapes(PRESETS[variant])
    tensors = {name: values(name, shape, rng) for name, shape in sorted(shapes.items())}
    shift_ends(tensors)
    save_file(tensors, folder / "weights.safetensors")
    import_open_clip(folder / "weights.safetensors", variant, folder / "model", True, report)
    return folder / "model"


def values(name, shape, rng):
    """A tensor's values, on the scales of those in tests/fixtures/open_clip/models.py."""
    noise = rng.standard_normal(shape, np.float32)
    if name == "logit_scale":
        return np.full(shape, math.log(1 / 0.07), np.float32)
    if name == "text_decoder.ln_final.bias":
        return noise * np.float32(0.7)
    if ".ln_" in name and name.endswith("weight"):
        return 1 + noise * np.float32(0.2)
    if name.endswith("bias"):
        return noise * np.float32(0.2)
    if "embedding" in name or name.endswith(("cls_emb", "query")):
        return noise * np.float32(0.7)
    if name.endswith(("proj", "text_projection")):
        return noise * np.float32(3 / math.sqrt(shape[0]))
    gain = 2.2 if "cross_attn" in name else 1.3
    return noise * np.float32(gain / math.sqrt(math.prod(shape[1:])))


def shift_ends(tensors):
    """Adds to the mean logit of the end, so that some captions are short."""
    bias = tensors["text_decoder.ln_final.bias"]
    column = tensors["text_decoder.text_projection"][:, EOS]
    column *= 0.3
    column += 14.0 * bias / np.square(bias).sum()
