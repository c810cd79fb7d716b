"""Beam search as in Hugging Face transformers 4.55 (`generate(num_beams=...)`)."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from coca_jax.generate.decoding import Decoding, Step, require, require_whole, restrict
from coca_jax.generate.ranking import top_k


@struct.dataclass
class _Finished:
    """The best texts that have ended; a score of -inf marks an empty place."""

    scores: Any  # [images, beams], descending
    log_probabilities: Any  # [images, beams]
    ids: Any  # [images, beams, length]


@struct.dataclass
class _State:
    totals: Any  # [images, beams], of the unfinished texts, descending; -inf: no text
    log_probabilities: Any  # [images, beams]; totals also include the repetition penalty
    finished: _Finished
    open: Any  # bool [images], whether the finished texts can still change


@dataclasses.dataclass(frozen=True)
class Beams:
    """Extends the most probable texts side by side, and returns the best of those that end.

    A text ends if its end token is among the `beams` best continuations, or at `length`. Its score
    is (sum of its log-probabilities) / (number of generated tokens, with the end) **
    `length_penalty`; the `beams` best scores are kept. Texts are equal to Hugging Face's except for
    ties. If fewer than `beams` tokens besides the end may be generated, Hugging Face's search fills
    up with copies.

    Raises:
      UserError: a value is out of range.
    """

    beams: int = 6
    n_best: int = 1
    length_penalty: float = 1.0  # above 0 favors long texts
    # True: an image is done when `beams` texts have ended. False: and if, in addition, the best
    # unfinished text would score less than all of them if it ended now.
    early_stopping: bool = False

    def __post_init__(self):
        require_whole("beams", self.beams, 1)
        require_whole("n_best", self.n_best, 1)
        wanted = f"from 1 to beams = {self.beams}"
        require(self.n_best <= self.beams, "n_best", self.n_best, wanted)
        # Beyond that, float32 does not hold the scores of long texts.
        penalty = self.length_penalty
        is_valid = isinstance(penalty, numbers.Real) and -10 <= penalty <= 10
        require(bool(is_valid), "length_penalty", penalty, "from -10 to 10")

    @property
    def texts(self) -> int:
        """See `Method`."""
        return self.beams

    def start(self, images: int, decoding: Decoding) -> _State:
        """See `Method`; all beams are alike at first, and one of them is enough."""
        none = jnp.full((images, self.beams), -jnp.inf, jnp.float32)
        ids = jnp.full((images, self.beams, decoding.length), decoding.pad_id, jnp.int32)
        totals = none.at[:, 0].set(0)
        return _State(totals, totals, _Finished(none, none, ids), jnp.ones(images, bool))

    def choose(
        self, decoding: Decoding, step: Step, state: _State
    ) -> tuple[Int[Array, "images k"], Int[Array, "images k"], _State]:
        """See `Method`."""
        parents, tokens, totals, nats = self._candidates(decoding, step, state)
        length = jnp.maximum(step.position + 1 - step.prompt_lengths, 1)[:, None]
        divisor = length.astype(jnp.float32) ** self.length_penalty
        # Only the first half may finish. If all of it does, the other half goes on.
        half = slice(self.beams)
        ended = (tokens == decoding.eos_id) | (step.position + 1 == decoding.length)
        scores = jnp.where(ended & state.open[:, None], totals / divisor, -jnp.inf)[:, half]
        ids = jnp.take_along_axis(step.ids, parents[:, half, None], axis=1)
        ids = ids.at[:, :, step.position].set(tokens[:, half])
        finished = self._best(state.finished, _Finished(scores, nats[:, half], ids))

        totals = jnp.where(tokens == decoding.eos_id, -jnp.inf, totals)
        totals, rows = top_k(totals, self.beams)
        parents, tokens, nats = (_rows(x, rows) for x in (parents, tokens, nats))
        worst = finished.scores[:, -1]
        is_open = state.open & (totals[:, 0] / divisor[:, 0] > worst)
        if self.early_stopping:
            is_open &= worst == -jnp.inf
        return parents, tokens, _State(totals, nats, finished, is_open)

    def done(self, state: _State) -> Bool[Array, " images"]:
        """See `Method`."""
        return ~state.open

    def result(
        self, ids: Int[Array, "images k l"], state: _State
    ) -> tuple[Int[Array, "images n l"], Float[Array, "images n"], Float[Array, "images n"]]:
        """See `Method`; a missing text (there are not `n_best`) is padding of score -inf."""
        best = jax.tree.map(lambda x: x[:, : self.n_best], state.finished)
        return best.ids, best.log_probabilities, best.scores

    def _candidates(self, decoding: Decoding, step: Step, state: _State) -> tuple[Array, ...]:
        """The 2 * beams best continuations: text and token, total and log-probability.

        The best of each text are taken first, so that few values leave the axis of the vocabulary.
        """
        normalizer = jax.nn.logsumexp(step.logits, axis=-1, keepdims=True)
        allowed = restrict(decoding, step, normalizer)
        count = min(2 * self.beams, allowed.shape[-1])
        ranked, tokens = top_k(allowed, count)
        nats = jnp.take_along_axis(step.logits, tokens, axis=-1) - normalizer
        totals = state.totals[..., None] + (ranked - normalizer)
        nats = state.log_probabilities[..., None] + nats

        totals, tokens, nats = (x.reshape(len(x), -1) for x in (totals, tokens, nats))
        totals, rows = top_k(totals, 2 * self.beams)
        return rows // count, _rows(tokens, rows), totals, _rows(nats, rows)

    def _best(self, *parts: _Finished) -> _Finished:
        """The best texts of all parts; of equal ones the first."""
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)
        _, rows = top_k(both.scores, self.beams)
        return jax.tree.map(lambda x: _rows(x, rows), both)


def _rows(x: Array, rows: Int[Array, "images k"]) -> Array:
    """Takes rows of the second axis for each image."""
    return jnp.take_along_axis(x, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)), axis=1)
