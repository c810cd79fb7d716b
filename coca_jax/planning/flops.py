"""Floating-point operations of the model, counted from its configuration.

The rule is that of model FLOPs utilization (arXiv 2204.02311, appendix B), but for causal
attention: a matmul of [m, k] by [k, n] is 2 m k n; the two matmuls of attention count in full over
images and at half under a causal mask; norms, activations, softmaxes, embedding look-ups and the
batch's similarity matrix are left out. Training is three times the forward pass; rematerialization
is not counted.
"""

import math
from dataclasses import replace
from typing import Any

from coca_jax.data.packing import PackingConfig
from coca_jax.models import CoCaConfig

RULE = "matmuls only, causal attention at half, training = 3 x forward, no remat"


def forward_flops(
    config: CoCaConfig, patch_dropout: float = 0.0, packing: Any = PackingConfig()
) -> dict[str, int]:
    """FLOPs of one example's forward pass, by part; a text, or a packed row, is of full length.

    With several images, the encoder, the pooler and the decoder's second half run for each.

    Args:
      config: the model.
      patch_dropout: share of the image's tokens that are left out after their embedding.
      packing: how texts share rows; `config.data.packing`, as options or as it stands.
    """
    image, text, pooler = config.image, config.text, config.pooler
    tokens = max(1, round(image.patches * (1 - patch_dropout))) + image.class_token
    contrastive = config.has_cls
    queries = pooler.caption_queries if config.multimodal else 0
    parts = {
        "image_encoder": 2 * image.patches * image.patch**2 * 3 * image.width
        + image.num_layers * _layer(tokens, image.width, image.mlp_dim, causal=False)
    }
    context = (queries, text.width) if queries else (tokens, image.width)
    if pooler.kind == "shared":
        parts["pooler"] = _cross(contrastive + queries, text.width, tokens, image.width)
    else:
        if queries:
            parts["caption_pooler"] = _cross(queries, text.width, tokens, image.width)
        if contrastive:
            source = context if pooler.kind == "cascade" else (tokens, image.width)
            parts["contrastive_pooler"] = _cross(1, text.width, *source)
    if contrastive and config.embed_dim:
        projection = 2 * text.width * config.embed_dim
        parts |= {"image_projection": projection}
        parts |= {"text_projection": projection * (1 + config.negatives)}
    if not config.reads_text:
        parts = {"image_encoder": parts["image_encoder"]}
    parts = {name: config.num_images * flops for name, flops in parts.items()}
    if config.reads_text:
        parts["decoder"] = _decoder(config, context, packing)
    return parts if config.head is None else parts | {"head": _head(config, tokens)}


def _decoder(config: CoCaConfig, context: tuple[int, int], packing: Any) -> int:
    """Both halves: the unimodal half runs once, the multimodal half once for each image."""
    text, texts = config.text, packing.texts_per_row
    length = _row_length(config, packing)
    unimodal = _unimodal(config, packing) * (1 + config.negatives)  # wrong captions
    if not config.multimodal:
        return unimodal // texts
    keys, key_width = context
    cross = _cross(length, text.width, texts * keys, key_width)
    cross += _mlp(length, text.width, text.mlp_dim) * text.interleaved
    second_half = text.multimodal_layers * _layer(length, text.width, text.mlp_dim, causal=True)
    second_half += text.multimodal_layers // text.cross_attention_every * cross
    vocabulary = 2 * length * text.width * text.vocab_size * config.captioning
    second_half *= 1 + config.wrong_pairs
    matching_head = 2 * text.width * (1 + config.wrong_pairs) * (config.matching_block > 0)
    row = unimodal + config.num_images * (second_half + vocabulary) + matching_head
    return row // texts


def _row_length(config: CoCaConfig, packing: Any) -> int:
    """Tokens of a row of texts."""
    return packing.row_length if packing.texts_per_row > 1 else config.text.context_length


def _unimodal(config: CoCaConfig, packing: Any) -> int:
    """The decoder's first half, of a row of texts."""
    text, length = config.text, _row_length(config, packing)
    length += packing.texts_per_row * config.has_cls
    return text.unimodal_layers * _layer(length, text.width, text.mlp_dim, causal=True)


def _head(config: CoCaConfig, tokens: int) -> int:
    """A query for each image's text, or one for the tokens of all images; the softmax layer."""
    head, text, image = config.head, config.text, config.image
    width, keys, groups = (
        (text.width, text.context_length, head.num_images)
        if head.input == "text"
        else (image.width, head.num_images * tokens, 1)
    )
    return groups * (_cross(1, width, keys, width) + 2 * width * head.classes)


def training_flops(
    config: CoCaConfig, packing: Any = PackingConfig(), teacher: CoCaConfig | None = None
) -> int:
    """FLOPs of one image-text pair's forward and backward pass.

    Args:
      config: the model.
      packing: how texts share rows; `config.data.packing`, as options or as it stands.
      teacher: a model that embeds the pair, too, without a backward pass; None: there is none.
    """
    flops = 3 * sum(forward_flops(config, config.image.patch_dropout, packing).values())
    return flops + (embedding_flops(teacher, packing) if teacher else 0)


def embedding_flops(config: CoCaConfig, packing: Any = PackingConfig()) -> int:
    """FLOPs of embedding one image-text pair, by a model with a contrastive loss."""
    config = replace(config, negatives=False, matching_block=0, head=None)
    if config.pooler.kind != "cascade":  # the queries of captions are not needed
        config = replace(config, captioning=False)
    parts = forward_flops(config, packing=packing)
    del parts["decoder"]
    return sum(parts.values()) + _unimodal(config, packing) // packing.texts_per_row


def hardware_flops(jaxpr: Any) -> int:
    """FLOPs of every matmul in a traced program, on all devices.

    Rematerialization counts. Attention counts in full, but cuDNN's at half under a causal mask; its
    backward pass computes the logits again. The body of a scan counts as often as it runs; two
    matmuls of the same arrays, cast or reshaped in the same way, count once, since compilers merge
    them; of branches the most expensive one counts. A Pallas kernel counts as it states.
    """
    count, seen, arrays = 0, set(), {}
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, settings = equation.primitive.name, equation.params
        if name in ("convert_element_type", "reshape"):
            source, result = map(id, (equation.invars[0], equation.outvars[0]))
            arrays[result] = arrays.get(source, source), str(equation.outvars[0].aval)
        if name == "dot_general":
            factors = tuple(arrays.get(id(v), id(v)) for v in equation.invars)
            if factors not in seen:
                seen.add(factors)
                count += _dot_flops(equation)
            continue
        if is_fused_attention(equation):
            count += _fused_attention_flops(equation)
            continue
        inner = [hardware_flops(part) for part in inner_programs(settings)]
        if name == "pallas_call":
            count += _kernel_flops(settings, sum(inner))
        elif name == "cond":
            count += max(inner)
        elif name == "shard_map":  # one device's part
            axes = next(v for k, v in settings.items() if k.endswith("manual_axes"))
            count += sum(inner) * math.prod(settings["mesh"].shape[axis] for axis in axes)
        else:
            count += sum(inner) * (settings["length"] if name == "scan" else 1)
    return count


def is_fused_attention(equation: Any) -> bool:
    """Whether an operation is cuDNN's attention, forward or backward."""
    return equation.primitive.name.startswith("dot_product_attention_")


def inner_programs(settings: dict[str, Any]) -> list[Any]:
    """The inner programs of an operation, such as the body of a scan."""
    values = [
        part
        for value in settings.values()
        for part in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return [v for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def _layer(length: int, width: int, mlp: int, causal: bool) -> int:
    """Self-attention and MLP of one layer."""
    projections = 4 * 2 * length * width**2
    attention = 2 * 2 * length**2 * width // (2 if causal else 1)
    return projections + attention + _mlp(length, width, mlp)


def _mlp(length: int, width: int, mlp: int) -> int:
    return 2 * 2 * length * width * mlp


def _cross(length: int, width: int, keys: int, key_width: int) -> int:
    """Cross-attention of `length` positions to `keys` keys."""
    projections = 2 * 2 * length * width**2 + 2 * 2 * keys * key_width * width
    return projections + 2 * 2 * length * keys * width


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[a] for a in contracted)


def _fused_attention_flops(equation: Any) -> int:
    """FLOPs of cuDNN's attention: two matmuls forward, and five backward, logits again included."""
    batch, queries, heads, size = equation.invars[0].aval.shape
    matmuls = 5 if "_bwd" in equation.primitive.name else 2
    full = matmuls * 2 * batch * heads * queries * equation.invars[1].aval.shape[1] * size
    return full // 2 if "CAUSAL" in equation.params["mask_type"].name else full


def _kernel_flops(settings: dict[str, Any], body: int) -> int:
    """FLOPs that a Pallas kernel states; if it states none, those of its body on its whole grid."""
    if stated := settings.get("cost_estimate"):
        return stated.flops
    return body * math.prod(n for n in settings["grid_mapping"].grid if isinstance(n, int))
