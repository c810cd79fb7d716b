"""The functions of a model that are exported, traced for batches of any size.

    image_encoder: pixels -> embedding; keys and values of the image, for the decoder
    text_encoder:  ids -> embedding
    decoder:       ids of one position, the position, keys and values -> logits; the text's keys
                   and values with this position's written

They are the model's own methods. All arrays have the batch as their first axis; keys and values
have the layers as their second. A prompt is read token by token, so that there is one decoder.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, Int, UInt8

from coca_jax.models import CoCaConfig, make_model, normalize_pixels
from coca_jax.models.attention import KeyValues
from coca_jax.models.text_decoder import DecoderCache
from coca_jax.models.transformer import LayerCache

BATCH = "batch"  # the name of the axis of any size
Spec = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function as JAX's operations, with dead code removed."""

    name: str
    jaxpr: ClosedJaxpr  # of the weights, then the inputs
    weights: tuple[str, ...]  # names of those that it reads
    inputs: dict[str, Spec]
    outputs: dict[str, Spec]


def exported_config(config: CoCaConfig, dtype: str) -> CoCaConfig:
    """The configuration of a model that is computed in this type on any device.

    Args:
      config: of a model with its layers apart, as `coca_jax.load` makes it.
      dtype: of the activations.
    """
    image, text = (dataclasses.replace(part, remat="") for part in (config.image, config.text))
    settings = {"dtype": dtype, "attention": "xla", "remat": "none"}
    return dataclasses.replace(config, image=image, text=text, **settings)


def weights_of(params: Mapping[str, Any], dtype: str) -> dict[str, Float[np.ndarray, "..."]]:
    """Parameters by path, such as `decoder/norm/scale`, as they are stored.

    Args:
      params: of a model with its layers apart, float32.
      dtype: of all that have two axes or more; others stay float32.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    kinds = {name: dtype if a.ndim > 1 else "float32" for name, a in arrays.items()}
    # By name, and in C's order, in which files hold them.
    return {n: np.array(a, jnp.dtype(kinds[n]), order="C") for n, a in sorted(arrays.items())}


def trace_functions(
    config: CoCaConfig, weights: Mapping[str, Float[np.ndarray, "..."]]
) -> list[Traced]:
    """The functions that a model has, by the losses that it was trained with.

    Args:
      config: see `exported_config`.
      weights: see `weights_of`.
    """
    functions = _Functions(config)
    (batch,) = jax.export.symbolic_shape(BATCH)
    specs = _input_specs(config, batch)
    traced = [_trace(functions.image_encoder, weights, {"pixels": specs["pixels"]})]
    if config.has_cls:
        length = config.text.context_length
        traced.append(
            _trace(functions.text_encoder, weights, {"ids": Spec((batch, length), jnp.int32)})
        )
    if config.captioning:
        inputs = {name: spec for name, spec in specs.items() if name != "pixels"}
        image = {n: spec for n, spec in traced[0].outputs.items() if n != "embedding"}
        traced.append(_trace(functions.decoder, weights, inputs | image))
    return traced


def _input_specs(config: CoCaConfig, batch: Any) -> dict[str, Spec]:
    """Pixels, and the decoder's inputs but for the image's keys and values."""
    text, dtype = config.text, jnp.dtype(config.dtype)
    layers, size = text.unimodal_layers + text.multimodal_layers, text.width // text.num_heads
    length = text.context_length
    return {
        "pixels": Spec((batch, *config.image.pixels, 3), jnp.uint8),
        "ids": Spec((batch,), jnp.int32),
        "position": Spec((), jnp.int32),
        "text_keys": Spec((batch, layers, text.num_heads, size, length), dtype),
        "text_values": Spec((batch, layers, text.num_heads, length, size), dtype),
    }


def _trace(
    function: Callable, weights: Mapping[str, np.ndarray], inputs: dict[str, Spec]
) -> Traced:
    """A function of weights and named inputs, without the weights that it does not read."""
    assert list(inspect.signature(function).parameters)[1:] == list(inputs)
    tree = {name: Spec(value.shape, value.dtype) for name, value in weights.items()}
    jaxpr, outputs = jax.make_jaxpr(function, return_shape=True)(tree, *inputs.values())
    arguments = [*tree, *inputs]
    live, used = partial_eval.dce_jaxpr(
        jaxpr.jaxpr,
        [True] * len(jaxpr.jaxpr.outvars),
        [False] * len(tree) + [True] * len(inputs),
    )
    read = tuple(n for n, is_used in zip(arguments, used, strict=True) if is_used and n in tree)
    return Traced(function.__name__, ClosedJaxpr(live, jaxpr.consts), read, inputs, outputs)


class _Functions:
    """The functions of weights by path and a batch, with the arguments in their order."""

    def __init__(self, config: CoCaConfig):
        self._config, self._model = config, make_model(config)

    def image_encoder(
        self, weights: dict[str, Array], pixels: UInt8[Array, "b h w 3"]
    ) -> dict[str, Array]:
        config = self._config
        normalized = normalize_pixels(pixels, config.image.mean, config.image.std)
        if not config.captioning:
            return {"embedding": self._apply(weights, "encode_image", normalized)}
        if not config.has_cls:
            context = self._apply(weights, "image_context", normalized)
            return self._image_key_values(weights, context)
        embedding, context = self._apply(weights, "embedding_and_context", normalized)
        return {"embedding": embedding} | self._image_key_values(weights, context)

    def text_encoder(
        self, weights: dict[str, Array], ids: Int[Array, "b l"]
    ) -> dict[str, Float[Array, "b e"]]:
        return {"embedding": self._apply(weights, "encode_text", ids)}

    def decoder(
        self,
        weights: dict[str, Array],
        ids: Int[Array, " b"],
        position: Int[Array, ""],
        text_keys: Float[Array, "b layers heads size length"],
        text_values: Float[Array, "b layers heads length size"],
        image_keys: Float[Array, "b cross heads size n"],
        image_values: Float[Array, "b cross heads n size"],
    ) -> dict[str, Array]:
        text, first = _layers(text_keys, text_values), self._config.text.unimodal_layers
        images, every = _layers(image_keys, image_values), self._config.text.cross_attention_every
        seen = [images[i // every] if i % every == 0 else None for i in range(len(text) - first)]
        multimodal = zip(text[first:], seen, strict=True)
        cache = DecoderCache(
            tuple(LayerCache(layer) for layer in text[:first]),
            tuple(LayerCache(layer, image) for layer, image in multimodal),
        )
        logits, new = self._apply(weights, "decode_step", ids[:, None], position, cache)
        layers = [layer.text for layer in (*new.unimodal, *new.multimodal)]
        return {"logits": logits[:, 0]} | _stacked("next_text", layers)

    def _image_key_values(
        self, weights: dict[str, Array], context: Float[Array, "b n d"]
    ) -> dict[str, Array]:
        """What a decoder's first step caches of the image; the step's own results are not used."""
        batch = context.shape[0]
        empty = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])),
            self._apply(weights, "empty_cache", 1, 1),
        )
        ids = jnp.zeros((batch, 1), jnp.int32)
        _, cache = self._apply(weights, "decode_step", ids, jnp.int32(0), empty, context)
        layers = [layer.image for layer in cache.multimodal if layer.image is not None]
        return _stacked("image", layers)

    def _apply(self, weights: dict[str, Array], method: str, *args: Any) -> Any:
        params = traverse_util.unflatten_dict(weights, sep="/")
        return self._model.apply({"params": params}, *args, method=method)


def _layers(keys: Array, values: Array) -> list[KeyValues]:
    """Keys and values of each layer, from arrays with the layers as their second axis."""
    each = (jnp.unstack(array, axis=1) for array in (keys, values))
    return [KeyValues(*pair) for pair in zip(*each, strict=True)]


def _stacked(name: str, layers: Sequence[KeyValues]) -> dict[str, Array]:
    """Arrays of all layers' keys and values."""
    return {
        f"{name}_keys": jnp.stack([layer.keys for layer in layers], axis=1),
        f"{name}_values": jnp.stack([layer.values for layer in layers], axis=1),
    }
