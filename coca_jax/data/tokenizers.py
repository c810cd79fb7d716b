"""Tokenizers: texts to rows of ids [bos, ..., eos, pad, ...] and back."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
from jaxtyping import Int, Int32

from coca_jax.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the framework knows of a tokenizer, its special ids included."""

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """One row a text: bos, the text cut to length - 2 ids, eos, then padding."""

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """The text of each row: what stands before the first eos, without bos and padding."""


class ByteTokenizer:
    """UTF-8 bytes, after the three special ids: needs no model file."""

    pad_id, bos_id, eos_id = 0, 1, 2
    vocab_size = 3 + 256

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        return _rows(self, [[3 + byte for byte in text.encode()] for text in texts], length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`; bytes that are not UTF-8 become U+FFFD."""
        rows = (bytes(i - 3 for i in _content(self, row) if i >= 3) for row in ids)
        return [row.decode(errors="replace") for row in rows]


class SentencePieceTokenizer:
    """A SentencePiece model, which must have its padding, bos and eos pieces."""

    def __init__(self, path: str | os.PathLike):
        if not Path(path).is_file():
            raise UserError(f"there is no SentencePiece model at {path}")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=Path(path).read_bytes())
        except RuntimeError as error:
            raise UserError(f"{path} is not a SentencePiece model: {error}") from error
        self.vocab_size = self._model.vocab_size()
        self.pad_id = self._model.pad_id()
        self.bos_id = self._model.bos_id()
        self.eos_id = self._model.eos_id()
        if min(self.pad_id, self.bos_id, self.eos_id) < 0:
            raise UserError(f"the SentencePiece model {path} lacks a padding, bos or eos piece")

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        return _rows(self, [self._model.encode(text) for text in texts], length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`."""
        return [self._model.decode(_content(self, row)) for row in ids]


class ClipTokenizer:
    """CLIP's lower-case byte pairs, with the same ids as OpenCLIP's: needs no model file."""

    # As in OpenCLIP, padding has the id of a "!" within a word; only its place after eos tells.
    pad_id, bos_id, eos_id = 0, 49406, 49407
    vocab_size = 49408

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        from coca_jax.data import clip_bpe  # its packages are for this tokenizer only

        return _rows(self, [clip_bpe.encode(text) for text in texts], length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`; bytes that are not UTF-8 become U+FFFD."""
        from coca_jax.data import clip_bpe

        return [clip_bpe.decode(self._content(row)) for row in np.asarray(ids).tolist()]

    def _content(self, row: list[int]) -> list[int]:
        if self.eos_id in row:
            return row[: row.index(self.eos_id)]
        while row and row[-1] == self.pad_id:
            row = row[:-1]
        return row


def make_tokenizer(kind: str, path: str | os.PathLike | None = None) -> Tokenizer:
    """A tokenizer by its kind: "byte", "clip", or "sentencepiece" with the model at `path`."""
    if kind == "byte":
        return ByteTokenizer()
    if kind == "clip":
        return ClipTokenizer()
    if kind == "sentencepiece":
        if not path:
            raise UserError("tokenizer kind 'sentencepiece' needs the path of a model file")
        return SentencePieceTokenizer(path)
    raise UserError(f"unknown tokenizer kind {kind!r}; known: 'byte', 'clip', 'sentencepiece'")


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """Trains a byte-pair model of `vocab_size` pieces, bytes included; returns its file.

    Byte pairs, since a unigram model leaves the words of a small, regular corpus in fragments.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.9995,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def _rows(
    tokenizer: Tokenizer, texts: Sequence[Sequence[int]], length: int
) -> Int32[np.ndarray, "b {length}"]:
    if length < 2:
        raise UserError(f"the text length must be at least 2 (bos and eos), not {length}")
    rows = np.full((len(texts), length), tokenizer.pad_id, np.int32)
    for row, ids in zip(rows, texts, strict=True):
        content = [tokenizer.bos_id, *ids[: length - 2], tokenizer.eos_id]
        row[: len(content)] = content
    return rows


def _content(tokenizer: Tokenizer, row: Int[np.ndarray, " l"]) -> list[int]:
    ids = np.asarray(row).tolist()
    if tokenizer.eos_id in ids:
        ids = ids[: ids.index(tokenizer.eos_id)]
    return [i for i in ids if i not in (tokenizer.pad_id, tokenizer.bos_id)]
