"""The probability of given texts: of answers, labels or captions to choose from."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.generate.decoding import Prompt, apply, read_prompt, require
from coca_jax.models import CoCa
from coca_jax.models.text_decoder import DecoderCache
from coca_jax.patches import Patches


@struct.dataclass
class Scores:
    """log p(candidate | image, prompt); divide by `lengths` for the mean over tokens."""

    log_probabilities: Any  # float32 [images, k], in nats
    lengths: Any  # int32 [images, k], tokens that were added up


def score(
    model: CoCa,
    params: Any,
    pixels: Float[Array, "images h w c"] | Patches,
    prompt: Prompt,
    candidates: Int[Array, "images k t"] | Int[Array, "k t"],
    lengths: Int[Array, "images k"] | Int[Array, " k"],
    chunk_size: int = 64,
) -> Scores:
    """The log-probability of each candidate as the continuation of its image's prompt.

    An image is encoded once for all of its candidates. So is the prompt if all are as long; of
    uneven ones only the first token is, and the others are run with each candidate.

    Args:
      model: must have been trained with a captioning loss.
      params: its parameters.
      pixels: normalized images.
      prompt: what comes before; at least the begin token.
      candidates: token ids without the prompt, padded on the right; [k, t] serve all images.
      lengths: tokens of each candidate that count, the end token among them if it is to be
        scored; from 0 to t.
      chunk_size: candidates of each image that are run at a time. Their logits, [images,
        chunk_size, t - 1, v] in float32, are the most memory that is needed.

    Raises:
      UserError: the texts are longer than the model's, or `chunk_size` is less than 1.
    """
    images, (count, size) = len(pixels), candidates.shape[-2:]
    require(chunk_size >= 1, "chunk_size", chunk_size, "at least 1")
    total, most = prompt.ids.shape[1] + size, model.config.text.context_length
    require(total <= most, "length of prompt and candidate", total, f"at most the model's, {most}")
    shared = prompt.ids.shape[1] if prompt.lengths is None else 1
    candidates = jnp.broadcast_to(candidates, (images, count, size))
    lengths = jnp.broadcast_to(lengths, (images, count))
    logits, cache = read_prompt(model, params, pixels, prompt.ids[:, :shared], total)
    tokens, counts = _joined(prompt, shared, candidates, lengths)
    score_chunk = functools.partial(
        _log_probabilities, model, params, logits[:, -1:], cache, shared
    )
    nats = _map_chunks(score_chunk, tokens, counts, min(chunk_size, count))
    return Scores(nats, lengths.astype(jnp.int32))


def _joined(
    prompt: Prompt,
    shared: int,
    candidates: Int[Array, "images k t"],
    lengths: Int[Array, "images k"],
) -> tuple[Int[Array, "images k s"], Bool[Array, "images k s"]]:
    """Puts each candidate behind the part of its prompt that is not shared.

    Returns:
      The token ids, and which of them count: those of the candidate.
    """
    images, count, size = candidates.shape
    rest = prompt.ids[:, shared:]
    rest_lengths = 0 if prompt.lengths is None else prompt.lengths - shared
    rest_lengths = jnp.broadcast_to(jnp.int32(rest_lengths), (images,))
    index = jnp.arange(rest.shape[1] + size)[None, None] - rest_lengths[:, None, None]
    index = jnp.broadcast_to(index, (images, count, index.shape[-1]))  # within the candidate
    text = jnp.take_along_axis(candidates, index.clip(0, size - 1), axis=-1)
    rest = jnp.pad(rest, ((0, 0), (0, size)))[:, None]
    counts = (index >= 0) & (index < lengths[..., None])
    return jnp.where(index < 0, rest, text), counts


def _log_probabilities(
    model: CoCa,
    params: Any,
    logits: Float[Array, "images 1 v"],
    cache: DecoderCache,
    position: int,
    tokens: Int[Array, "images k s"],
    counts: Bool[Array, "images k s"],
) -> Float[Array, "images k"]:
    """Sums over the tokens that count; `logits` are of the first one."""
    images, count, size = tokens.shape
    first = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, 0], tokens[..., 0], axis=-1)
    nats = jnp.where(counts[..., 0], first, 0)
    if size > 1:
        cache = cache.select(jnp.zeros((images, count), jnp.int32))
        inputs = tokens[..., :-1].reshape(images * count, -1)
        logits, _ = apply(model, params, "decode_step", inputs, jnp.int32(position), cache)
        logits = logits.reshape(images, count, size - 1, -1)
        chosen = jnp.take_along_axis(logits, tokens[..., 1:, None], axis=-1)[..., 0]
        later = chosen - jax.nn.logsumexp(logits, axis=-1)
        nats += jnp.sum(jnp.where(counts[..., 1:], later, 0), axis=-1)
    return nats


def _map_chunks(
    function: Callable[[Array, Array], Array],
    tokens: Int[Array, "images k s"],
    counts: Bool[Array, "images k s"],
    chunk_size: int,
) -> Float[Array, "images k"]:
    """Applies a function to `chunk_size` candidates of every image at a time."""
    images, count, _ = tokens.shape
    chunks = _split(tokens, chunk_size), _split(counts, chunk_size)
    results = jax.lax.map(lambda chunk: function(*chunk), chunks)
    return jnp.moveaxis(results, 0, 1).reshape(images, -1)[:, :count]


def _split(x: Array, chunk_size: int) -> Array:
    """[images, k, ...] -> [chunks, images, chunk_size, ...], padded with zeros."""
    images, count = x.shape[:2]
    chunks = -(-count // chunk_size)
    x = jnp.pad(x, [(0, 0), (0, chunks * chunk_size - count)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(images, chunks, chunk_size, *x.shape[2:]), 1, 0)
