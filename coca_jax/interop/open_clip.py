"""OpenCLIP's CoCa: its tensors' names, in terms of ours.

One table says which of our parameters a tensor is, and is read in both directions; nothing is
computed on the way, so that both directions together change no bit. The names are those of
open_clip_torch 3.3.0.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Shaped

from coca_jax.errors import UserError
from coca_jax.interop.names import listed
from coca_jax.interop.rows import LAYER, Row, block, linear, norm, their_shape, to_ours, to_theirs
from coca_jax.interop.weights import StoredTensor, Tensors
from coca_jax.models import CoCa, CoCaConfig, init_params

READABLE = ("float64", "float32", "float16", "bfloat16")  # types of weights that are read


def from_open_clip(tensors: Tensors, config: CoCaConfig) -> dict[str, Any]:
    """Our parameters, float32.

    Args:
      tensors: OpenCLIP's by name, of any type in `READABLE`; a number may be of shape [1].
      config: the model; see `open_clip_config.model_config`.

    Raises:
      UserError: names are missing or surplus, shapes or types are others, or values are not finite;
        of each kind all are counted and a few named.
    """
    shapes = expected_shapes(config)
    require_shapes(tensors, shapes)
    values = {name: _float32(tensors[name]).reshape(shape) for name, shape in shapes.items()}
    if wrong := [name for name, value in values.items() if not np.isfinite(value).all()]:
        raise UserError(f"NaN or infinity is in {len(wrong):,} of the weights: {listed(wrong)}")
    return traverse_util.unflatten_dict(to_ours(values, _table(config)), sep="/")


def require_shapes(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that tensors are those of a model; their values are not read.

    Args:
      tensors: by OpenCLIP's names.
      expected: shapes, as of `expected_shapes`.

    Raises:
      UserError: names, shapes or types differ.
    """
    if problems := list(_misfits(tensors, expected)):
        raise UserError("these weights are not the model's:\n" + "\n".join(problems))


def to_open_clip(
    params: Mapping[str, Any], config: CoCaConfig
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """OpenCLIP's tensors by name.

    Raises:
      UserError: the model has settings that OpenCLIP's CoCa lacks.
    """
    require_open_clip(config)
    flat = traverse_util.flatten_dict(params, sep="/")
    return to_theirs(flat, _table(config), config.image.patch)


def require_open_clip(config: CoCaConfig) -> None:
    """Checks that a model has all settings of OpenCLIP's CoCa.

    Raises:
      UserError: settings differ; the message names each of them.
    """
    needed = {
        "model.image.class_token": (config.image.class_token, True),
        "model.image.patch_bias": (config.image.patch_bias, False),
        "model.image.sequence_lengths": (config.image.sequence_lengths, ()),
        "model.image.pre_norm": (config.image.pre_norm, True),
        "model.text.cross_attention_every": (config.text.cross_attention_every, 1),
        "model.text.interleaved": (config.text.interleaved, True),
        "model.text.tie_embeddings": (config.text.tie_embeddings, False),
        "model.pooler.kind": (config.pooler.kind, "shared"),
        "model.pooler.query_norm": (config.pooler.query_norm, True),
        "model.text.pad_id": (config.text.pad_id, 0),
        "model.embed_dim": (config.embed_dim, config.text.width),
        "model.text.mlp_dim": (config.text.mlp_dim, 4 * config.text.width),
        "model.pooler.caption_queries above 0": (config.pooler.caption_queries > 0, True),
        "loss.contrastive.kind (and a weight)": (config.contrastive, "softmax"),
        "a weight of the captioning loss": (config.captioning, True),
    }
    problems = [f"{key}: {has}, not {want}" for key, (has, want) in needed.items() if has != want]
    if problems:
        lines = "\n  ".join(problems)
        raise UserError(
            f"OpenCLIP has no such CoCa:\n  {lines}\n"
            "to write OpenCLIP's weights, train from the preset open_clip_vit_b_32 or "
            "open_clip_vit_l_14, as webdataset_example does"
        )


def _table(config: CoCaConfig) -> Iterator[Row]:
    """Every tensor of the model, once."""
    image, text, decoder = "image_encoder", "decoder", "decoder/multimodal/layers"
    yield Row("logit_scale", ("logit_scale",))
    yield Row("text.cls_emb", (f"{text}/cls",))
    yield Row("text.positional_embedding", (f"{text}/positions",))
    yield Row("text.token_embedding.weight", (f"{text}/embedding",))
    yield Row("text.text_projection", ("text_projection",))
    yield from norm("text.ln_final", f"{text}/cls_norm")
    yield Row("text_decoder.text_projection", (f"{text}/lm_head",))
    yield from norm("text_decoder.ln_final", f"{text}/norm")
    yield Row("visual.class_embedding", (f"{image}/class_token",))
    yield Row("visual.positional_embedding", (f"{image}/positions",))
    yield Row("visual.conv1.weight", (f"{image}/patch_embedding/kernel",), "patches")
    yield from norm("visual.ln_pre", f"{image}/pre_norm")
    yield Row("visual.proj", ("image_projection",))
    yield Row("visual.attn_pool.query", ("pooler/queries",))
    # The pooler's keys are normalized by the norm at the end of our encoder.
    yield from norm("visual.attn_pool.ln_k", f"{image}/norm")
    yield from norm("visual.attn_pool.ln_q", "pooler/query_norm")
    yield from norm("visual.ln_post", "pooler/norm")
    attention = "visual.attn_pool.attn"
    kernels = tuple(f"pooler/attention/{name}/kernel" for name in ("query", "key", "value"))
    if config.image.width == config.text.width:  # PyTorch then keeps the three in one tensor
        yield Row(f"{attention}.in_proj_weight", kernels, "matrix")
    else:
        for letter, path in zip("qkv", kernels, strict=True):
            yield Row(f"{attention}.{letter}_proj_weight", (path,), "matrix")
    biases = tuple(f"pooler/attention/{name}/bias" for name in ("query", "key", "value"))
    yield Row(f"{attention}.in_proj_bias", biases)
    yield from linear(f"{attention}.out_proj", "pooler/attention/out")
    unimodal, layers = f"{text}/unimodal/layers", config.text.multimodal_layers
    encoder, attention = f"{image}/transformer/layers", "self_attention"
    for theirs, ours, count in (
        ("visual.transformer.resblocks", encoder, config.image.num_layers),
        ("text.transformer.resblocks", unimodal, config.text.unimodal_layers),
    ):
        yield from block(theirs, ours, attention, "mlp", count)
    yield from block("text_decoder.resblocks", decoder, attention, "self_mlp", layers)
    cross = "text_decoder.cross_attn"
    yield from block(cross, decoder, "cross_attention", "mlp", layers)
    yield from norm(f"{cross}.{LAYER}.ln_1_kv", f"{decoder}/context_norm", layers)


def _misfits(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """A line for each way in which tensors are not those of a model: how many, and the first."""
    both = {name: tensors[name] for name in expected if name in tensors}
    groups = {
        "missing": [f"{n} {shape}" for n, shape in expected.items() if n not in tensors],
        "surplus": [f"{n} {tensor.shape}" for n, tensor in tensors.items() if n not in expected],
        "of another shape": [
            f"{name} {tensor.shape}, should be {expected[name]}"
            for name, tensor in both.items()
            if tensor.shape != expected[name] and {*tensor.shape, *expected[name]} - {1}
        ],
        f"of another type than {', '.join(READABLE)}": [
            f"{n} {tensor.dtype}" for n, tensor in both.items() if str(tensor.dtype) not in READABLE
        ],
    }
    for group, lines in groups.items():
        if lines:
            yield f"  {len(lines):,} {group}: {listed(sorted(lines), '; ')}"


def _float32(tensor: StoredTensor) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is reported
        return np.asarray(tensor, np.float32)


@functools.lru_cache(maxsize=1)
def expected_shapes(config: CoCaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that make up the model."""
    boxed = jax.eval_shape(lambda: init_params(CoCa(config), jax.random.key(0)))
    flat = traverse_util.flatten_dict(nn.meta.unbox(boxed), sep="/")
    shapes = {}
    for row in _table(config):
        shape = their_shape(row, flat[row.ours[0]].shape, config.image.patch)
        shapes |= dict.fromkeys(row.names, shape)
    return shapes
