"""Greedy decoding and sampling, in which each text is extended independently."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.errors import UserError
from coca_jax.generate.decoding import (
    Decoding,
    Step,
    representable,
    require,
    require_positive,
    require_whole,
    restrict,
)
from coca_jax.generate.ranking import nucleus, top_k


@struct.dataclass
class _State:
    log_probabilities: Any  # [images, k]
    finished: Any  # bool [images, k]


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Chooses the most probable token at each position."""

    @property
    def texts(self) -> int:
        """See `Method`."""
        return 1

    def start(self, images: int, decoding: Decoding) -> _State:
        """See `Method`."""
        shape = (images, self.texts)
        return _State(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool))

    def choose(
        self, decoding: Decoding, step: Step, state: _State
    ) -> tuple[None, Int[Array, "images k"], _State]:
        """See `Method`."""
        tokens = self._pick(restrict(decoding, step), step)
        chosen = jnp.take_along_axis(step.logits, tokens[..., None], axis=-1)[..., 0]
        gained = chosen - jax.nn.logsumexp(step.logits, axis=-1)
        nats = state.log_probabilities + jnp.where(state.finished, 0, gained)
        tokens = jnp.where(state.finished, decoding.pad_id, tokens)
        ended = ~state.finished & (tokens == decoding.eos_id)
        return None, tokens, _State(nats, state.finished | ended)

    def done(self, state: _State) -> Bool[Array, " images"]:
        """See `Method`."""
        return jnp.all(state.finished, axis=-1)

    def result(
        self, ids: Int[Array, "images k l"], state: _State
    ) -> tuple[Int[Array, "images k l"], Float[Array, "images k"], Float[Array, "images k"]]:
        """See `Method`; the scores are the log-probabilities."""
        return ids, state.log_probabilities, state.log_probabilities

    def _pick(self, logits: Float[Array, "images k v"], step: Step) -> Int[Array, "images k"]:
        return jnp.argmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class Sampling(Greedy):
    """Draws tokens from softmax(logits / temperature), restricted to `top_k`, then to `top_p`.

    The restrictions and their order are those of Hugging Face's warpers.

    Raises:
      UserError: a value is out of range.
    """

    samples: int = 1  # per image
    temperature: float = 1.0
    top_k: int = 0  # only the k most probable tokens; 0: all
    top_p: float = 1.0  # only the fewest tokens whose probabilities (after top_k) add up to this

    def __post_init__(self):
        require_whole("samples", self.samples, 1)
        hint = " (for the most probable tokens, caption greedily)"
        require_positive("temperature", self.temperature, hint)
        require_whole("top_k", self.top_k, 0)
        share = isinstance(self.top_p, numbers.Real) and 0 < self.top_p <= 1
        require(bool(share), "top_p", self.top_p, "above 0 and at most 1")

    @property
    def texts(self) -> int:
        """See `Method`."""
        return self.samples

    def _pick(self, logits: Float[Array, "images k v"], step: Step) -> Int[Array, "images k"]:
        if step.key is None:
            raise UserError("sampling draws random numbers: pass a key")
        # The greatest becomes 0, which no temperature makes infinite.
        logits = logits - jnp.max(logits, axis=-1, keepdims=True)
        logits, tokens = logits / representable(self.temperature), None
        if 0 < self.top_k < logits.shape[-1]:
            logits, tokens = top_k(logits, self.top_k)
        if self.top_p < 1:
            kept = nucleus(jax.nn.softmax(logits), representable(self.top_p))
            logits = jnp.where(kept, logits, -jnp.inf)
        drawn = jnp.argmax(logits + _gumbel(step, logits.shape), axis=-1)
        if tokens is None:
            return drawn
        return jnp.take_along_axis(tokens, drawn[..., None], axis=-1)[..., 0]


def _gumbel(step: Step, shape: tuple[int, ...]) -> Float[Array, "images k v"]:
    """Noise by image, sample and position, so that it does not change with the batch."""
    images, count, size = shape

    def noise(image: Array, sample: Array) -> Array:
        key = step.key
        for number in (image, sample, step.position):
            key = jax.random.fold_in(key, number)
        return jax.random.gumbel(key, (size,), jnp.float32)

    return jax.vmap(jax.vmap(noise, (None, 0)), (0, None))(jnp.arange(images), jnp.arange(count))
