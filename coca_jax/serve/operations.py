"""The functions of a model that batches of requests run, in the batcher's thread."""

import functools
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from coca_jax.evaluate.embed import embed_texts
from coca_jax.evaluate.questions import text_behind
from coca_jax.evaluate.zero_shot import class_embeddings, class_prompts
from coca_jax.image_search import ImageIndex
from coca_jax.inference import Caption, LoadedModel
from coca_jax.patches import Patches, stack

CACHED_LABELS = 64  # sets of labels whose embeddings are kept
MAX_PROGRAMS = 256  # compiled for options of requests; then all are dropped
Pixels = UInt8[np.ndarray, "h w 3"] | Patches


class Key(NamedTuple):
    """An operation and its options; rows with equal keys may share a batch."""

    operation: str
    options: tuple[tuple[str, Any], ...] = ()
    alone: object = None  # differs for requests whose result depends on their batch


class Operations:
    """The operations on rows of equal options: one result for each row."""

    def __init__(self, model: LoadedModel, index: ImageIndex | None = None):
        """Wraps a model.

        Args:
          model: used by one thread at a time.
          index: of images to search, by embeddings of this model.
        """
        self._model, self._index = model, index
        self._programs: set[Any] = set()
        self._class_embeddings = functools.lru_cache(CACHED_LABELS)(
            functools.partial(class_embeddings, model)
        )

    def __call__(self, key: Key, rows: list[Any]) -> list[Any]:
        """Runs the operation of a key."""
        return list(getattr(self, key.operation)(rows, **dict(key.options)))

    def embed_image(self, rows: Sequence[Pixels]) -> Float32[np.ndarray, "n e"]:
        """Embeddings of unit length."""
        return self._model.encode_image(stack(rows))

    def embed_text(self, rows: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """Embeddings of unit length."""
        return embed_texts(self._model, rows)

    def caption(
        self,
        rows: Sequence[tuple[Pixels, str]],
        method: str = "greedy",
        seed: int | None = None,
        **options: Any,
    ) -> list[Caption]:
        """Captions of images after a prompt each; without a seed, sampling is random."""
        pixels, prompts = zip(*rows, strict=True)
        self._note("caption", len(rows), prompts, method, options)
        if method == "sample" and seed is None:
            seed = secrets.randbelow(2**32)
        return self._model.caption(stack(pixels), method, prompt=prompts, seed=seed, **options)

    def attention_maps(
        self, rows: Sequence[tuple[Pixels, str]]
    ) -> list[list[tuple[str, Float32[np.ndarray, "r c"]]]]:
        """Maps of the attention for each word of each image's text."""
        pixels, texts = zip(*rows, strict=True)
        return self._model.attention_maps(stack(pixels), texts)

    def class_embeddings(
        self, rows: Sequence[None], labels: tuple[str, ...], templates: tuple[str, ...]
    ) -> list[Float32[np.ndarray, "c e"]]:
        """For each row the embeddings of the labels, which are computed once."""
        return [self._class_embeddings(labels, templates)] * len(rows)

    def label_log_probabilities(
        self, rows: Sequence[Pixels], labels: tuple[str, ...], templates: tuple[str, ...]
    ) -> Float[np.ndarray, "n c"]:
        """log p(a prompt of the label | image); of several templates, probabilities add up."""
        texts = class_prompts(labels, templates)
        padded = texts + texts[:1] * (_power_of_two(len(texts)) - len(texts))
        self._note("score", len(rows), texts, len(padded))
        nats = self._model.log_probabilities(stack(rows), padded)[:, : len(texts)]
        nats = nats.reshape(len(rows), len(labels), len(templates))
        return np.logaddexp.reduce(nats, axis=-1)

    def answer_by_head(
        self, rows: Sequence[tuple[Pixels, str]]
    ) -> Float32[np.ndarray, "n classes"]:
        """The head's logits of its answers."""
        pixels, questions = zip(*rows, strict=True)
        return self._model.classify(stack(pixels), questions)

    def answer_by_text(self, rows: Sequence[tuple[Pixels, str]]) -> list[Caption]:
        """The texts that the decoder writes after the questions, with their log-probabilities."""
        ids = self._model.tokenize([question for _, question in rows])
        questions = self._model.tokenizer.decode(ids)
        return [
            Caption(text_behind(one.text, question), one.log_probability)
            for one, question in zip(self.caption(rows), questions, strict=True)
        ]

    def search(self, rows: Sequence[Float32[np.ndarray, "e"]], top: int) -> list[list[Any]]:
        """The most similar images of the index, with their similarity."""
        return [self._index.search(row, top) for row in rows]

    def _note(self, operation: str, rows: int, texts: Sequence[str], *options: Any) -> None:
        """Counts the programs that clients' options compile, and drops them if they are many."""
        longest = int((self._model.tokenize(texts) != self._model.tokenizer.pad_id).sum(1).max())
        self._programs.add((operation, _power_of_two(rows), longest, repr(options)))
        if len(self._programs) > MAX_PROGRAMS:
            self._programs.clear()
            self._model.forget_programs()


def rank(scores: Float[np.ndarray, " n"], top: int) -> list[int]:
    """The indices of the highest scores, the best first."""
    return np.argsort(-scores, kind="stable")[:top].tolist()


def softmax(scores: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... n"]:
    """Probabilities in proportion to exp(scores)."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
