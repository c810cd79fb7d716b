"""OpenCLIP's CoCa: its tensors' names, in terms of ours.

One table says which of our parameters a tensor is, and is read in both directions; nothing is
computed on the way, so that both directions together change no bit. The names are those of
open_clip_torch 3.3.0.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from coca_jax.errors import UserError
from coca_jax.interop.names import listed
from coca_jax.interop.weights import StoredTensor, Tensors
from coca_jax.models import CoCa, CoCaConfig, init_params

FLOATS = ("float64", "float32", "float16", "bfloat16")  # what weights may be stored as
LAYER = "{}"  # in names: the layer's number; in paths of ours, layers are stacked


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs and the parameters of ours that it consists of, one below another."""

    theirs: str
    ours: tuple[str, ...]
    form: str = "same"  # or matrix (out, in are exchanged), or patches (a convolution's kernel)
    layers: int = 0  # 0: not in a stack


def from_open_clip(tensors: Tensors, config: CoCaConfig) -> dict[str, Any]:
    """Our parameters, float32.

    Args:
      tensors: OpenCLIP's by name, of any type in `FLOATS`; a number may be of shape [1].
      config: the model; see `open_clip_config.model_config`.

    Raises:
      UserError: names are missing or surplus, shapes or types are others, or values are not finite;
        of each kind all are counted and a few named.
    """
    shapes = expected_shapes(config)
    if problems := list(_misfits(tensors, shapes)):
        raise UserError("these weights are not the model's:\n" + "\n".join(problems))
    values = {name: _float32(tensors[name]).reshape(shape) for name, shape in shapes.items()}
    if wrong := [name for name, value in values.items() if not np.isfinite(value).all()]:
        raise UserError(f"NaN or infinity is in {len(wrong):,} of the weights: {listed(wrong)}")
    flat: dict[str, np.ndarray] = {}
    for row in _table(config):
        pieces = [
            [_to_ours(piece, row.form) for piece in np.split(values[name], len(row.ours))]
            if len(row.ours) > 1
            else [_to_ours(values[name], row.form)]
            for name in _names(row)
        ]
        for path, parts in zip(row.ours, zip(*pieces, strict=True), strict=True):
            flat[path] = np.stack(parts) if row.layers else parts[0]
    return traverse_util.unflatten_dict(flat, sep="/")


def to_open_clip(params: Mapping[str, Any], config: CoCaConfig) -> dict[str, np.ndarray]:
    """OpenCLIP's tensors by name.

    Raises:
      UserError: the model has settings that OpenCLIP's CoCa lacks.
    """
    require_open_clip(config)
    flat = traverse_util.flatten_dict(params, sep="/")
    result = {}
    for row in _table(config):
        for layer, name in enumerate(_names(row)):
            ours = [np.asarray(flat[path]) for path in row.ours]
            ours = [value[layer] if row.layers else value for value in ours]
            pieces = [_to_theirs(value, row.form, config.image.patch) for value in ours]
            result[name] = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return result


def require_open_clip(config: CoCaConfig) -> None:
    """Checks that a model has all settings of OpenCLIP's CoCa.

    Raises:
      UserError: settings differ; the message names each of them.
    """
    needed = {
        "model.image.class_token": (config.image.class_token, True),
        "model.image.patch_bias": (config.image.patch_bias, False),
        "model.image.pre_norm": (config.image.pre_norm, True),
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
        raise UserError("OpenCLIP has no such CoCa:\n  " + "\n  ".join(problems))


def _table(config: CoCaConfig) -> Iterator[Row]:
    """Every tensor of the model, once."""
    image, text, decoder = "image_encoder", "decoder", "decoder/multimodal/layers"
    yield Row("logit_scale", ("logit_scale",))
    yield Row("text.cls_emb", (f"{text}/cls",))
    yield Row("text.positional_embedding", (f"{text}/positions",))
    yield Row("text.token_embedding.weight", (f"{text}/embedding",))
    yield Row("text.text_projection", ("text_projection",))
    yield from _norm("text.ln_final", f"{text}/cls_norm")
    yield Row("text_decoder.text_projection", (f"{text}/lm_head",))
    yield from _norm("text_decoder.ln_final", f"{text}/norm")
    yield Row("visual.class_embedding", (f"{image}/class_token",))
    yield Row("visual.positional_embedding", (f"{image}/positions",))
    yield Row("visual.conv1.weight", (f"{image}/patch_embedding/kernel",), "patches")
    yield from _norm("visual.ln_pre", f"{image}/pre_norm")
    yield Row("visual.proj", ("image_projection",))
    yield Row("visual.attn_pool.query", ("pooler/queries",))
    # The pooler's keys are normalized by the norm at the end of our encoder.
    yield from _norm("visual.attn_pool.ln_k", f"{image}/norm")
    yield from _norm("visual.attn_pool.ln_q", "pooler/query_norm")
    yield from _norm("visual.ln_post", "pooler/norm")
    attention = "visual.attn_pool.attn"
    kernels = tuple(f"pooler/attention/{name}/kernel" for name in ("query", "key", "value"))
    if config.image.width == config.text.width:  # PyTorch then keeps the three in one tensor
        yield Row(f"{attention}.in_proj_weight", kernels, "matrix")
    else:
        for letter, path in zip("qkv", kernels, strict=True):
            yield Row(f"{attention}.{letter}_proj_weight", (path,), "matrix")
    yield from _attention_ends(attention, "pooler/attention")
    unimodal, layers = f"{text}/unimodal/layers", config.text.multimodal_layers
    encoder = f"{image}/transformer/layers"
    yield from _block(
        "visual.transformer", encoder, "self_attention", "mlp", config.image.num_layers
    )
    yield from _block(
        "text.transformer", unimodal, "self_attention", "mlp", config.text.unimodal_layers
    )
    yield from _block("text_decoder", decoder, "self_attention", "self_mlp", layers)
    cross = "text_decoder.cross_attn"
    yield from _block(cross, decoder, "cross_attention", "mlp", layers, stack="")
    yield from _norm(f"{cross}.{LAYER}.ln_1_kv", f"{decoder}/context_norm", layers)


def _block(
    theirs: str, ours: str, attention: str, mlp: str, layers: int, stack: str = ".resblocks"
) -> Iterator[Row]:
    """A stack of pre-LayerNorm layers, each of an attention and an MLP."""
    theirs = f"{theirs}{stack}.{LAYER}"
    yield from _norm(f"{theirs}.ln_1", f"{ours}/{attention}_norm", layers)
    projected = tuple(f"{ours}/{attention}/{name}/kernel" for name in ("query", "key", "value"))
    yield Row(f"{theirs}.attn.in_proj_weight", projected, "matrix", layers)
    yield from _attention_ends(f"{theirs}.attn", f"{ours}/{attention}", layers)
    yield from _norm(f"{theirs}.ln_2", f"{ours}/{mlp}_norm", layers)
    yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}/{mlp}/up", layers)
    yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}/{mlp}/down", layers)


def _attention_ends(theirs: str, ours: str, layers: int = 0) -> Iterator[Row]:
    """The three biases of the inputs, which are one tensor, and the output."""
    biases = tuple(f"{ours}/{name}/bias" for name in ("query", "key", "value"))
    yield Row(f"{theirs}.in_proj_bias", biases, layers=layers)
    yield from _linear(f"{theirs}.out_proj", f"{ours}/out", layers)


def _linear(theirs: str, ours: str, layers: int = 0) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", (f"{ours}/kernel",), "matrix", layers)
    yield Row(f"{theirs}.bias", (f"{ours}/bias",), layers=layers)


def _norm(theirs: str, ours: str, layers: int = 0) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", (f"{ours}/scale",), layers=layers)
    yield Row(f"{theirs}.bias", (f"{ours}/bias",), layers=layers)


def _names(row: Row) -> list[str]:
    """The row's tensors: one, or one for each layer."""
    return [row.theirs.format(layer) for layer in range(row.layers)] or [row.theirs]


def _to_ours(tensor: np.ndarray, form: str) -> np.ndarray:
    if form == "matrix":
        return tensor.T
    if form == "patches":  # [out, channel, row, column]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
    return tensor


def _to_theirs(value: np.ndarray, form: str, patch: int) -> np.ndarray:
    if form == "matrix":
        return value.T
    if form == "patches":
        return value.reshape(patch, patch, -1, value.shape[-1]).transpose(3, 2, 0, 1)
    return value


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
        f"of another type than {', '.join(FLOATS)}": [
            f"{n} {tensor.dtype}" for n, tensor in both.items() if str(tensor.dtype) not in FLOATS
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
        shape = flat[row.ours[0]].shape[1 if row.layers else 0 :]
        # A view of one number has the shape, and takes no memory.
        number = np.broadcast_to(np.float32(0), shape)
        part = _to_theirs(number, row.form, config.image.patch).shape
        whole = (part[0] * len(row.ours), *part[1:]) if part else ()
        shapes |= dict.fromkeys(_names(row), whole)
    return shapes
