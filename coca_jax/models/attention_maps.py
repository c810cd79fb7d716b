"""Maps of the decoder's attention to the patches of an image, for each token that it predicts."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from coca_jax.models.coca import CoCa
from coca_jax.models.config import CoCaConfig
from coca_jax.models.image_encoder import Pixels
from coca_jax.patches import Patches

READ = re.compile(r"(cross_attention|pooler/attention)/(query|key)$")  # modules' paths


def attention_maps(
    model: CoCa, params: Any, pixels: Pixels, ids: Int[Array, "b t"]
) -> Float[Array, "b t rows columns"] | Float[Array, "b t n"]:
    """Attention from each position of a text to the patches of its image; each map sums to 1.

    It is the decoder's cross-attention to the caption pooler's queries, the mean of its heads and
    layers, times the pooler's attention to the encoder's tokens, the mean of its heads; without
    caption queries, the cross-attention alone. A class token is left out and the rest scaled up.

    This says which tokens the weights point at, and no more: a token of the encoder has seen the
    whole image, and nothing is known of what the values add, or of what goes around the attention
    by residuals. It is not what the prediction depends on (see arXiv 1902.10186).

    The model is run as in training; only the projected queries and keys are kept, and the weights
    computed from them again.

    Args:
      model: must have been trained with a captioning loss.
      params: its parameters.
      pixels: normalized images.
      ids: a text for each image; position t predicts token t + 1.

    Returns:
      Maps of the model's grid; of images with grids of their own, of each patch in row order, 0 at
      padding.
    """
    kept = {"capture_intermediates": _is_read, "mutable": ["intermediates"]}
    _, state = model.apply({"params": params}, pixels, ids, method="caption_logits", **kept)
    intermediates, config = state["intermediates"], model.config
    layers = intermediates["decoder"]["multimodal"]
    layers = layers["layers"] if config.stacked else layers
    if config.stacked and config.text.cross_attention_every == 1:
        layers = {"": layers}
    layers = [layer["cross_attention"] for layer in layers.values() if "cross_attention" in layer]
    if config.stacked:
        looks = jax.lax.map(lambda layer: _weights(layer, config.text.num_heads), layers[0])
    else:
        looks = jnp.stack([_weights(layer, config.text.num_heads) for layer in layers])
    weights = jnp.mean(looks, axis=0)[:, : ids.shape[1]]  # without padding to an even length
    if config.pooler.caption_queries:
        pooler = intermediates["pooler" if config.pooler.kind == "shared" else "caption_pooler"]
        pooled = _weights(pooler["attention"], config.pooler.num_heads, _mask(pixels, config))
        weights = jnp.einsum("btq,bqn->btn", weights, pooled)
    weights = weights[..., int(config.image.class_token) :]
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return (
        weights if isinstance(pixels, Patches) else weights.reshape(*ids.shape, *config.image.grid)
    )


def _mask(pixels: Pixels, config: CoCaConfig) -> Bool[Array, "b n"] | None:
    """Which of the encoder's tokens are not padding; None: all."""
    if not isinstance(pixels, Patches):
        return None
    first = int(config.image.class_token)
    return jnp.pad(pixels.mask, ((0, 0), (first, 0)), constant_values=True)


def _is_read(module: nn.Module, method: str) -> bool:
    """Whether a module projects queries or keys of attention from text to image."""
    return method == "__call__" and bool(READ.search("/".join(module.path)))


def _weights(
    attention: dict[str, dict[str, Any]], heads: int, mask: Bool[Array, "b s"] | None = None
) -> Float[Array, "b t s"]:
    """The mean of the heads' attention weights, of an attention layer's captured projections."""

    def of_heads(name: str) -> Float[Array, "b s h k"]:
        (x,) = attention[name]["__call__"]
        x = x[0] if isinstance(x, tuple) else x  # keys, whose bias changes no weight
        return x.reshape(*x.shape[:-1], heads, -1)

    query, keys = of_heads("query"), of_heads("key")
    logits = jnp.einsum("bthk,bshk->bhts", query, keys, preferred_element_type=jnp.float32)
    logits = logits / jnp.sqrt(jnp.float32(query.shape[-1]))
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    return jnp.mean(jax.nn.softmax(logits), axis=1)
