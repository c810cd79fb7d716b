"""The decoding loop over positions that all methods share, and the limits on their choices."""

import dataclasses
import functools
import math
import numbers
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.errors import UserError
from coca_jax.models import CoCa
from coca_jax.models.text_decoder import DecoderCache
from coca_jax.patches import Patches

FLOAT32 = np.finfo(np.float32)


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Limits on the texts that may be generated, for all methods.

    Raises:
      UserError: a value is out of range.
    """

    bos_id: int
    eos_id: int  # -1: texts have the full length
    pad_id: int
    length: int  # the most tokens of a text, including begin, prompt and end
    min_length: int = 0  # the fewest tokens before the end, including begin and prompt
    suppress: tuple[int, ...] = ()  # ids that are never generated
    # Above 1, makes tokens less likely that already occur in the text or its prompt: a logit is
    # divided by it if positive, multiplied if negative (arXiv 1909.05858, section 4.1). Beam search
    # applies it to log-probabilities, as Hugging Face's does.
    repetition_penalty: float = 1.0

    def __post_init__(self):
        require_whole("length", self.length, 2)
        require_whole("min_length", self.min_length, 0)
        wanted = f"from 0 to length - 1 = {self.length - 1}"
        require(self.min_length < self.length, "min_length", self.min_length, wanted)
        require_positive("repetition_penalty", self.repetition_penalty, " (1: none)")


@struct.dataclass
class Prompt:
    """The beginning of each image's text, starting with the begin token."""

    ids: Any  # int [images, p], padded on the right
    lengths: Any = None  # int [images], of the rows without padding, from 1 to p; None: all are p


@struct.dataclass
class Generated:
    """n texts of each image, the best first (samples: in the order drawn)."""

    ids: Any  # int32 [images, n, length]: begin, prompt, text, end if it fits, padding
    lengths: Any  # int32 [images, n], the number of tokens without padding
    # float32 [images, n] in nats: of all generated tokens (with the end, without the prompt), under
    # the model itself, without temperature, penalty or suppression.
    log_probabilities: Any
    scores: Any  # float32 [images, n], by which texts are ranked


@struct.dataclass
class Step:
    """The input to the choice of one position's tokens."""

    position: Any  # int []
    logits: Any  # float32 [images, k, v]
    ids: Any  # int32 [images, k, length], final up to the position
    prompt_lengths: Any  # int [images]
    key: Any  # a random key, or None


@runtime_checkable
class Method(Protocol):
    """A method of choosing tokens. Leaves of its state have a leading `images` axis."""

    @property
    def texts(self) -> int:
        """The number of texts per image that are extended side by side."""

    def start(self, images: int, decoding: Decoding) -> Any:
        """The state at the end of each prompt."""

    def choose(
        self, decoding: Decoding, step: Step, state: Any
    ) -> tuple[Int[Array, "images k"] | None, Int[Array, "images k"], Any]:
        """Returns the texts to extend (None: each once), their new tokens, and the new state."""

    def done(self, state: Any) -> Bool[Array, " images"]:
        """Returns whether each image's texts are complete."""

    def result(
        self, ids: Int[Array, "images k l"], state: Any
    ) -> tuple[Int[Array, "images n l"], Float[Array, "images n"], Float[Array, "images n"]]:
        """Returns the ids, log-probabilities and scores of `Generated`."""


@struct.dataclass
class _Loop:
    position: Any  # [], of the next tokens
    ids: Any  # [images, k, length]
    cache: DecoderCache
    state: Any


def generate(
    model: CoCa,
    params: Any,
    pixels: Float[Array, "images h w c"] | Patches,
    decoding: Decoding,
    method: Method,
    prompt: Prompt | None = None,
    key: jax.Array | None = None,
) -> Generated:
    """Generates captions of images; every token and the image's keys and values are computed once.

    A text depends on its image, its prompt and, if sampled, its row in the batch, but neither on
    other rows nor on the sharding over devices.

    Args:
      model: a model that was trained with a captioning loss.
      params: the model's parameters.
      pixels: normalized images.
      decoding: the limits on the texts.
      method: `Greedy`, `Sampling` or `Beams`.
      prompt: the beginning of each text; None: the begin token alone.
      key: the random key for sampling, from which each row, sample and position gets its own.

    Returns:
      The texts of each image.

    Raises:
      UserError: the length exceeds the model's, or the prompt leaves no room.
    """
    if prompt is None:
        prompt = Prompt(jnp.full((len(pixels), 1), decoding.bos_id, jnp.int32))
    prompt_lengths = _checked_lengths(model, decoding, prompt)
    start = method.start(len(prompt_lengths), decoding)
    advance = functools.partial(_advance, decoding, method, prompt_lengths, key, start)

    def extend(loop: _Loop) -> _Loop:
        return advance(*_decode_last(model, params, loop))

    def unfinished(loop: _Loop) -> Bool[Array, ""]:
        return (loop.position < decoding.length) & ~jnp.all(method.done(loop.state))

    logits, cache = read_prompt(model, params, pixels, prompt.ids, decoding.length)
    ids = _padded(prompt.ids, prompt_lengths, decoding)
    loop = _Loop(jnp.min(prompt_lengths), ids[:, None], cache, start)
    loop = advance(*_repeated(loop, logits, method.texts))
    end = jax.lax.while_loop(unfinished, extend, loop)
    ids, nats, scores = method.result(end.ids, end.state)
    return Generated(ids, _lengths(ids, prompt_lengths, decoding.eos_id), nats, scores)


def _advance(
    decoding: Decoding,
    method: Method,
    prompt_lengths: Int[Array, " images"],
    key: jax.Array | None,
    start: Any,
    loop: _Loop,
    logits: Float[Array, "images k v"],
) -> _Loop:
    """Chooses the tokens of the loop's position by their logits.

    All texts go from position to position together. Where a prompt is longer, its own token is
    taken, and the method's state stays what it was at the start.
    """
    step = Step(loop.position, logits, loop.ids, prompt_lengths, key)
    parents, tokens, state = method.choose(decoding, step, loop.state)
    ids, cache = loop.ids, loop.cache
    if parents is not None:
        ids, cache = jnp.take_along_axis(ids, parents[..., None], 1), cache.select(parents)
    in_prompt = loop.position < prompt_lengths
    state = jax.tree.map(lambda new, old: _where(in_prompt, old, new), state, start)
    tokens = _where(in_prompt, ids[:, :, loop.position], tokens)
    ids = ids.at[:, :, loop.position].set(tokens.astype(jnp.int32))
    return _Loop(loop.position + 1, ids, cache, state)


def _decode_last(model: CoCa, params: Any, loop: _Loop) -> tuple[_Loop, Float[Array, "images k v"]]:
    """Runs the newest tokens; returns the loop with them in its cache, and the next logits."""
    position = loop.position - 1
    last = loop.ids[:, :, position].reshape(-1, 1)
    logits, cache = apply(model, params, "decode_step", last, position, loop.cache)
    return loop.replace(cache=cache), logits.reshape(*loop.ids.shape[:2], -1)


def restrict(
    decoding: Decoding, step: Step, origin: Float[Array, "images k 1"] | float = 0.0
) -> Float[Array, "images k v"]:
    """The logits of a step with the repetition penalty, and -inf where no token may be chosen.

    Args:
      decoding: says which.
      step: has the logits.
      origin: what the penalty takes for 0: logsumexp(logits) for one of log-probabilities.
    """
    logits, penalty = step.logits, decoding.repetition_penalty
    vocab = logits.shape[-1]
    if penalty != 1:
        seen = jnp.take_along_axis(logits, step.ids, axis=-1) - origin
        penalty = representable(penalty)
        seen = jnp.where(seen > 0, seen / penalty, seen * penalty) + origin
        # However large the penalty, seen tokens stay above forbidden ones, which are -inf.
        seen = jnp.clip(seen, FLOAT32.min, FLOAT32.max)
        # Out of bounds is dropped. Under vmap, each device writes into its own rows.
        ids = jnp.where(jnp.arange(decoding.length)[None, None] < step.position, step.ids, vocab)
        write = jax.vmap(jax.vmap(lambda row, i, x: row.at[i].set(x, mode="drop")))
        logits = write(logits, ids, seen)
    tokens = np.arange(vocab)
    forbidden = np.isin(tokens, decoding.suppress)
    too_early = (tokens == decoding.eos_id) & (step.position < decoding.min_length)
    return jnp.where((forbidden | too_early)[None, None], -jnp.inf, logits)


def read_prompt(
    model: CoCa,
    params: Any,
    pixels: Float[Array, "images h w c"] | Patches,
    ids: Int[Array, "images p"],
    length: int,
) -> tuple[Float[Array, "images p v"], DecoderCache]:
    """Encodes the images and runs their prompts: logits after each token, and the cache."""
    context = apply(model, params, "image_context", pixels)
    empty = apply(model, params, "empty_cache", len(pixels), length)
    return apply(model, params, "decode_step", ids, jnp.int32(0), empty, context)


def apply(model: CoCa, params: Any, method: str, *args: Any) -> Any:
    """Calls a method of the model."""
    return model.apply({"params": params}, *args, method=method)


def require(condition: bool, name: str, value: Any, wanted: str) -> None:
    """Raises a UserError that says what a setting must be, unless it is."""
    if not condition:
        raise UserError(f"{name} is {value}; it must be {wanted}")


def require_whole(name: str, value: Any, least: int) -> None:
    """Raises a UserError unless a setting is a whole number, `least` or more."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    require(bool(whole and value >= least), name, value, f"a whole number, at least {least}")


def require_positive(name: str, value: Any, hint: str = "") -> None:
    """Raises a UserError unless a setting is a finite number above 0; the hint says more."""
    positive = isinstance(value, numbers.Real) and 0 < value < math.inf
    require(bool(positive), name, value, f"positive and finite{hint}")


def representable(value: float) -> float:
    """The nearest positive number that float32 holds with full precision, and its inverse too.

    XLA flushes smaller numbers to 0, and may divide by multiplying with the inverse.
    """
    return float(np.clip(value, FLOAT32.tiny, 1 / FLOAT32.tiny))


def _checked_lengths(model: CoCa, decoding: Decoding, prompt: Prompt) -> Int[Array, " images"]:
    """The number of tokens of each prompt; checks that the texts fit into the model."""
    most, (images, size) = model.config.text.context_length, prompt.ids.shape
    require(decoding.length <= most, "length", decoding.length, f"at most the model's, {most}")
    wanted = f"less than length = {decoding.length}, and not 0"
    require(0 < size < decoding.length, "the prompt's length", size, wanted)
    return jnp.full(images, size, jnp.int32) if prompt.lengths is None else prompt.lengths


def _padded(
    ids: Int[Array, "images p"], prompt_lengths: Int[Array, " images"], decoding: Decoding
) -> Int[Array, "images l"]:
    """Prompts with room for what will be generated."""
    columns = jnp.arange(decoding.length)[None]
    ids = jnp.pad(ids, ((0, 0), (0, decoding.length - ids.shape[1])))
    return jnp.where(columns < prompt_lengths[:, None], ids, decoding.pad_id).astype(jnp.int32)


def _repeated(loop: _Loop, logits: Float[Array, "images p v"], count: int) -> tuple[_Loop, Array]:
    """The loop with `count` texts of each image, and the logits of their next token."""
    logits = jax.lax.dynamic_slice_in_dim(logits, loop.position - 1, 1, axis=1)
    if count > 1:
        cache = loop.cache.select(jnp.zeros((len(logits), count), jnp.int32))
        loop = loop.replace(ids=jnp.repeat(loop.ids, count, axis=1), cache=cache)
    return loop, jnp.repeat(logits, count, axis=1)


def _where(images: Bool[Array, " images"], x: Array, y: Array) -> Array:
    return jnp.where(images.reshape(-1, *[1] * (y.ndim - 1)), x, y)


def _lengths(
    ids: Int[Array, "images n l"], prompt_lengths: Int[Array, " images"], eos_id: int
) -> Int[Array, "images n"]:
    """The number of tokens up to and including the generated end; without an end, all."""
    length = ids.shape[-1]
    ends = (ids == eos_id) & (jnp.arange(length)[None, None] >= prompt_lengths[:, None, None])
    return jnp.where(jnp.any(ends, axis=-1), jnp.argmax(ends, axis=-1) + 1, length)
