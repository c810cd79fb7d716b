"""Tokenizers: texts to rows of ids [bos, ..., eos, pad, ...] and back."""

import io
import os
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
from jaxtyping import Int, Int32

from coca_jax.errors import UserError
from coca_jax.io import files

# What the model file of a kind is called in a run's folder.
MODEL_FILES = {"sentencepiece": "tokenizer.model", "json": "tokenizer.json"}


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the framework knows of a tokenizer, its special ids included.

    Tokenizers are picklable, and used by many threads at a time.
    """

    vocab_size: int  # all ids are less
    pad_id: int
    bos_id: int
    eos_id: int
    unk_id: int | None  # of what has no other id; None if everything has
    unknown_ids: frozenset[int]  # unk_id, and ids of bytes that spell an unknown character

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """One row a text: bos, the text cut to length - 2 ids, eos, then padding."""

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """The text of each row: what stands before the first eos, without bos and padding."""


class ByteTokenizer:
    """UTF-8 bytes, after the three special ids: needs no model file."""

    pad_id, bos_id, eos_id = 0, 1, 2
    unk_id, unknown_ids = None, frozenset()
    vocab_size = 3 + 256

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        # A character has a byte at least: what is cut off first would not be kept.
        ids = [[3 + byte for byte in text[: max(length, 0)].encode()] for text in texts]
        return _rows(self, ids, length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`; bytes that are not UTF-8 become U+FFFD."""
        rows = (bytes(i - 3 for i in _content(self, row) if i >= 3) for row in ids)
        return [row.decode(errors="replace") for row in rows]


class SentencePieceTokenizer:
    """A SentencePiece model, which must have its padding, bos and eos pieces."""

    def __init__(self, path: str | os.PathLike):
        try:
            content = files.read_bytes(path)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UserError(f"there is no SentencePiece model at {path}") from error
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise UserError(f"{path} is not a SentencePiece model: {error}") from error
        self.vocab_size = self._model.vocab_size()
        self.pad_id = self._model.pad_id()
        self.bos_id = self._model.bos_id()
        self.eos_id = self._model.eos_id()
        if min(self.pad_id, self.bos_id, self.eos_id) < 0:
            raise UserError(f"the SentencePiece model {path} lacks a padding, bos or eos piece")
        self.unk_id = self._model.unk_id()
        spelling = (i for i in range(self.vocab_size) if self._model.is_byte(i))
        self.unknown_ids = frozenset([self.unk_id, *spelling])

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        return _rows(self, [self._model.encode(text) for text in texts], length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`."""
        return [self._model.decode(_content(self, row)) for row in ids]


class JsonTokenizer:
    """A HuggingFace `tokenizer.json`, whose special tokens are found as `tokenizer_json` says.

    A text that spells out bos, eos or padding gets no such id.
    """

    def __init__(self, path: str | os.PathLike):
        from coca_jax.data.tokenizers import tokenizer_json

        # The caller has threads of its own; the library's would compete, and not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        contents = tokenizer_json.read(path)
        self._model = tokenizers.Tokenizer.from_str(contents.text)
        self._model.no_padding()
        self.eos_id, self.bos_id, self.pad_id = contents.eos_id, contents.bos_id, contents.pad_id
        self._special = {self.eos_id, self.bos_id, self.pad_id}
        self.vocab_size = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        self.unk_id = None if contents.unk_id in self._special else contents.unk_id
        unknown = contents.byte_ids if self.unk_id is None else {self.unk_id} | contents.byte_ids
        self.unknown_ids = frozenset(unknown)

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        # Unlike `encode`, which holds Python's lock.
        encoded = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [[i for i in one.ids if i not in self._special] for one in encoded]
        return _rows(self, ids, length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`; without other special tokens and ids beyond the vocabulary."""
        rows = ([i for i in _content(self, row) if 0 <= i < self.vocab_size] for row in ids)
        return self._model.decode_batch(list(rows), skip_special_tokens=True)


class ClipTokenizer:
    """CLIP's lower-case byte pairs, with the same ids as OpenCLIP's: needs no model file."""

    # As in OpenCLIP, padding has the id of a "!" within a word; only its place after eos tells.
    pad_id, bos_id, eos_id = 0, 49406, 49407
    unk_id, unknown_ids = None, frozenset()
    vocab_size = 49408

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """See `Tokenizer.encode`."""
        # Its packages are for this tokenizer only.
        from coca_jax.data.tokenizers import clip_bpe

        return _rows(self, [clip_bpe.encode(text, max(length, 0)) for text in texts], length)

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """See `Tokenizer.decode`; bytes that are not UTF-8 become U+FFFD."""
        from coca_jax.data.tokenizers import clip_bpe

        return [clip_bpe.decode(self._content(row)) for row in np.asarray(ids).tolist()]

    def _content(self, row: list[int]) -> list[int]:
        if self.eos_id in row:
            return row[: row.index(self.eos_id)]
        while row and row[-1] == self.pad_id:
            row = row[:-1]
        return row


def make_tokenizer(kind: str, path: str | os.PathLike | None = None) -> Tokenizer:
    """A tokenizer by its kind.

    Args:
      kind: "byte" or "clip", which need no file, "sentencepiece" or "json".
      path: the model file.

    Raises:
      UserError: the kind is none of these, or its file is missing, broken or lacks a special token.
    """
    if kind == "byte":
        return ByteTokenizer()
    if kind == "clip":
        return ClipTokenizer()
    if kind not in MODEL_FILES:
        known = ", ".join(map(repr, ("byte", "clip", *MODEL_FILES)))
        raise UserError(f"unknown tokenizer kind {kind!r}; known: {known}")
    if not path:
        raise UserError(f"tokenizer kind {kind!r} needs the path of a model file")
    return SentencePieceTokenizer(path) if kind == "sentencepiece" else JsonTokenizer(path)


def model_file(kind: str, path: str | os.PathLike) -> bytes:
    """A file with which alone `make_tokenizer` gives the same tokenizer as with that at `path`.

    A `tokenizer.json` is given the roles of its special tokens, which its neighbours may tell.

    Args:
      kind: one of MODEL_FILES.
      path: the model file.

    Raises:
      UserError: a `tokenizer.json` is missing, broken or lacks a special token.
    """
    if kind == "json":
        from coca_jax.data.tokenizers import tokenizer_json

        return tokenizer_json.read(path).text.encode()
    return files.read_bytes(path)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, model_type: str = "bpe", most_texts: int | None = None
) -> bytes:
    """Trains a model of at most `vocab_size` pieces, bytes included; returns its file.

    Byte pairs by default, since a unigram model leaves the words of a small, regular corpus in
    fragments.

    Args:
      texts: the corpus.
      vocab_size: special pieces and the 256 of bytes included.
      model_type: "bpe" or "unigram".
      most_texts: of more, so many (above 100) are drawn, always the same; None: all are used.

    Raises:
      RuntimeError: SentencePiece cannot train on these texts.
    """
    model = io.BytesIO()
    drawn = {"input_sentence_size": most_texts, "shuffle_input_sentence": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=model_type,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=0.9995,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
        **(drawn if most_texts else {}),
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
