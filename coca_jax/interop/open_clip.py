"""OpenCLIP's CoCa: its configuration and its tensors' names, in terms of ours.

One table says which of our parameters a tensor is, and is read in both directions; nothing is
computed on the way, so that both directions together change no bit. The names are those of
open_clip_torch 3.3.0.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from coca_jax.errors import UserError
from coca_jax.interop.weights import Tensors
from coca_jax.models import CoCa, CoCaConfig, ImageConfig, PoolerConfig, TextConfig, init_params
from coca_jax.models.presets import open_clip

LAYER = "{}"  # in names: the layer's number; in paths of ours, layers are stacked


# What ours always is, by section of an OpenCLIP configuration ("": all of it); {}: must be absent.
TOWER = {"ls_init_value": {}, "norm_kwargs": {}, "act_kwargs": {}}
SUPPORTED = {
    "": {"quick_gelu": False},
    "vision_cfg": TOWER
    | {"attentional_pool": True, "no_ln_pre": False}
    | {"final_ln_after_pool": False, "pos_embed_type": "learnable", "timm_model_name": {}},
    "text_cfg": TOWER
    | {"embed_cls": True, "pad_id": 0, "no_causal_mask": False, "proj_type": "linear"}
    | {"proj_bias": False, "hf_model_name": {}},
    "multimodal_cfg": TOWER,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs and the parameters of ours that it consists of, one below another."""

    theirs: str
    ours: tuple[str, ...]
    form: str = "same"  # or matrix (out, in are exchanged), or patches (a convolution's kernel)
    layers: int = 0  # 0: not in a stack


def model_config(settings: Mapping[str, Any]) -> CoCaConfig:
    """The model that an OpenCLIP configuration (as in its `model_configs`) describes.

    Raises:
      UserError: it is no CoCa, or has settings that ours lacks.
    """
    if strange := list(_strange(settings)):
        raise UserError("these settings are not supported:\n  " + "\n  ".join(strange))
    try:
        vision, text = settings["vision_cfg"], settings["text_cfg"]
        multimodal = settings["multimodal_cfg"]
        height, width = _pair(vision["image_size"])
        patch = vision["patch_size"]
        halves = [_half(text), _half(multimodal)]
        image = ImageConfig(
            size=height,
            patch=patch,
            columns=0 if width == height else width // patch,
            width=vision["width"],
            layers=vision["layers"],
            heads=vision["width"] // vision.get("head_width", 64),
            mlp=int(vision["width"] * vision.get("mlp_ratio", 4.0)),
        )
        decoder = TextConfig(
            vocab_size=text["vocab_size"],
            length=text["context_length"],
            width=text["width"],
            unimodal_layers=text["layers"],
            multimodal_layers=multimodal["layers"],
            heads=text["heads"],
            mlp=4 * text["width"],
        )
        pooler = PoolerConfig(
            kind="shared",
            caption_queries=vision.get("attn_pooler_queries", 256) - 1,
            heads=vision.get("attn_pooler_heads", 8),
            query_norm=True,
        )
        embedding = settings["embed_dim"]
    except KeyError as error:
        raise UserError(f"the OpenCLIP configuration lacks {error}; is it a CoCa's?") from error
    if halves[0] != halves[1] or not embedding == text["width"]:
        raise UserError(f"text_cfg, multimodal_cfg and embed_dim should agree, but are {settings}")
    if text.get("mlp_ratio", 4.0) != 4:  # OpenCLIP's multimodal layers always have 4
        raise UserError(f"text_cfg.mlp_ratio={text['mlp_ratio']} should be 4, as multimodal_cfg's")
    return open_clip(image, decoder, pooler=pooler, embedding=embedding)


def from_open_clip(tensors: Tensors, config: CoCaConfig) -> dict[str, Any]:
    """Our parameters, float32.

    Args:
      tensors: OpenCLIP's by name, in float32, float16 or bfloat16.
      config: the model; see `model_config`.

    Raises:
      UserError: names are missing or surplus, or shapes differ; all are listed.
    """
    if problems := list(_misfits(tensors, dict(_expected_shapes(config)))):
        raise UserError("these weights are not the model's:\n" + "\n".join(problems))
    flat: dict[str, np.ndarray] = {}
    for row in _table(config):
        pieces = [
            [_to_ours(piece, row.form) for piece in np.split(tensors[name], len(row.ours))]
            if len(row.ours) > 1
            else [_to_ours(tensors[name], row.form)]
            for name in _names(row)
        ]
        for path, values in zip(row.ours, zip(*pieces, strict=True), strict=True):
            flat[path] = np.stack(values) if row.layers else values[0]
    flat = {path: np.asarray(value, np.float32) for path, value in flat.items()}
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
    """That the model has each setting of OpenCLIP's CoCa.

    Raises:
      UserError: it has not; every setting that differs is named.
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
        "model.embedding": (config.embedding, config.text.width),
        "model.text.mlp": (config.text.mlp, 4 * config.text.width),
        "model.pooler.caption_queries above 0": (config.pooler.caption_queries > 0, True),
        "loss.contrastive.kind (and a weight)": (config.contrastive, "softmax"),
        "a weight of the captioning loss": (config.captioning, True),
    }
    problems = [f"{key}: {has}, not {want}" for key, (has, want) in needed.items() if has != want]
    if problems:
        raise UserError("OpenCLIP has no such CoCa:\n  " + "\n  ".join(problems))


def settings(config: CoCaConfig) -> dict[str, Any]:
    """The OpenCLIP configuration of a model: what `model_config` reads."""
    image, text, pooler = config.image, config.text, config.pooler
    half = {"context_length": text.length, "vocab_size": text.vocab_size, "width": text.width}
    half |= {"heads": text.heads, "mlp_ratio": text.mlp / text.width}
    return {
        "embed_dim": config.embedding,
        "vision_cfg": {
            "image_size": image.size if not image.columns else list(image.pixels),
            "patch_size": image.patch,
            "width": image.width,
            "layers": image.layers,
            "head_width": image.width // image.heads,
            "mlp_ratio": image.mlp / image.width,
            "attentional_pool": True,
            "attn_pooler_queries": pooler.caption_queries + 1,
            "attn_pooler_heads": pooler.heads,
            "output_tokens": True,
        },
        "text_cfg": half
        | {"layers": text.unimodal_layers, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": half | {"layers": text.multimodal_layers},
        "custom_text": True,
    }


def _table(config: CoCaConfig) -> Iterator[Row]:
    """Every tensor of the model, once."""
    image, text, decoder = "image_encoder", "decoder", "decoder/multimodal/layers"
    yield Row("logit_scale", ("logit_scale",))
    yield Row("text.cls_emb", (f"{text}/cls",))
    yield Row("text.positional_embedding", (f"{text}/positions",))
    yield Row("text.token_embedding.weight", (f"{text}/embedding",))
    yield Row("text.text_projection", ("text_projection",))
    yield from _norm("text.ln_final", f"{text}/cls_norm")
    yield Row("text_decoder.text_projection", (f"{text}/softmax",))
    yield from _norm("text_decoder.ln_final", f"{text}/norm")
    yield Row("visual.class_embedding", (f"{image}/class_token",))
    yield Row("visual.positional_embedding", (f"{image}/positions",))
    yield Row("visual.conv1.weight", (f"{image}/patch_embedding/kernel",), "patches")
    yield from _norm("visual.ln_pre", f"{image}/pre_norm")
    yield Row("visual.proj", ("image_projection",))
    yield Row("visual.attn_pool.query", ("pooler/queries",))
    # What normalises the pooler's keys is the norm that our encoder ends with.
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
    yield from _block("visual.transformer", encoder, "self_attention", "mlp", config.image.layers)
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
    """A line for each tensor that is missing, surplus, or of another shape or kind."""
    groups = {
        "missing": [f"{n} {expected[n]}" for n in expected if n not in tensors],
        "surplus": [f"{n} {tensors[n].shape}" for n in tensors if n not in expected],
        "of another shape": [
            f"{name} {tensors[name].shape}, should be {shape}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
        "of another type": [
            f"{name} {tensor.dtype}, should be float32, float16 or bfloat16"
            for name, tensor in tensors.items()
            if str(tensor.dtype) not in ("float32", "float16", "bfloat16")
        ],
    }
    for group, lines in groups.items():
        yield from (f"  {group}: {line}" for line in sorted(lines))


def _expected_shapes(config: CoCaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that make up the model."""
    boxed = jax.eval_shape(lambda: init_params(CoCa(config), jax.random.key(0)))
    flat = traverse_util.flatten_dict(nn.meta.unbox(boxed), sep="/")
    for row in _table(config):
        shape = flat[row.ours[0]].shape[1 if row.layers else 0 :]
        # A view of one number has the shape, and takes no memory.
        number = np.broadcast_to(np.float32(0), shape)
        part = _to_theirs(number, row.form, config.image.patch).shape
        whole = (part[0] * len(row.ours), *part[1:]) if part else ()
        yield from ((name, whole) for name in _names(row))


def _strange(settings: Mapping[str, Any]) -> Iterator[str]:
    """Settings of OpenCLIP's under which equal weights would compute something else."""
    for section, wanted in SUPPORTED.items():
        given = settings.get(section, {}) if section else settings
        for key, value in wanted.items():
            if given.get(key) not in (None, value):
                yield f"{section or 'model'}: {key}={given[key]!r} should be {value!r}"


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _half(settings: Mapping[str, Any]) -> dict[str, int]:
    """What both halves of our decoder have in common."""
    return {name: settings[name] for name in ("width", "heads", "context_length")}
