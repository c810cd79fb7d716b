"""Greedy decoding: the most probable token at each position."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from coca_jax.models import CoCa
from coca_jax.models.text_decoder import DecoderCache


@struct.dataclass
class Generated:
    """Captions as tokens: begin token, text, end token if it fitted, padding."""

    ids: Any  # int32 [b, t]
    log_probabilities: Any  # [b], of all tokens after the first, in nats


@struct.dataclass
class _Loop:
    position: Any  # [], of the token that is chosen next
    ids: Any  # [b, t]
    log_probabilities: Any  # [b]
    finished: Any  # [b]
    logits: Any  # [b, v], of the next token
    cache: DecoderCache


def greedy(
    model: CoCa,
    params: Any,
    pixels: Float[Array, "b h w c"],
    bos_id: int,
    eos_id: int,
    length: int,
) -> Generated:
    """Captions images, each token computed once: keys and values of earlier ones are cached.

    Args:
      model: must have been trained with a captioning loss.
      params: its parameters.
      pixels: normalised images.
      bos_id: what captions begin with.
      eos_id: what ends a caption.
      length: most tokens of a caption, begin and end included.
    """
    batch, pad_id = pixels.shape[0], model.config.text.pad_id
    never = jnp.array([pad_id, bos_id])  # no caption continues with these

    def apply(method: str, *args):
        return model.apply({"params": params}, *args, method=method)

    def choose(loop: _Loop) -> _Loop:
        nats = jax.nn.log_softmax(loop.logits)
        token = jnp.argmax(nats.at[:, never].set(-jnp.inf), axis=-1)
        gained = jnp.take_along_axis(nats, token[:, None], axis=-1)[:, 0]
        token = jnp.where(loop.finished, pad_id, token)
        logits, cache = apply("extend", token[:, None], loop.position, loop.cache)
        return _Loop(
            loop.position + 1,
            loop.ids.at[:, loop.position].set(token),
            loop.log_probabilities + jnp.where(loop.finished, 0, gained),
            loop.finished | (token == eos_id),
            logits[:, 0],
            cache,
        )

    begin = jnp.full((batch, 1), bos_id)
    context = apply("image_context", pixels)
    empty = apply("empty_cache", batch, length)
    logits, cache = apply("extend", begin, jnp.int32(0), empty, context)
    start = _Loop(
        position=jnp.int32(1),
        ids=jnp.full((batch, length), pad_id).at[:, 0].set(bos_id),
        log_probabilities=jnp.zeros(batch),
        finished=jnp.zeros(batch, bool),
        logits=logits[:, 0],
        cache=cache,
    )
    unfinished = lambda loop: (loop.position < length) & ~jnp.all(loop.finished)  # noqa: E731
    end = jax.lax.while_loop(unfinished, choose, start)
    return Generated(end.ids, end.log_probabilities)
