"""Trains a SentencePiece model on the captions of a data set, with a progress bar."""

import os
import re
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from coca_jax.errors import UserError
from coca_jax.io import files

MODEL_TYPES = ("unigram", "bpe")
# If there are more texts, this many are sampled: they are held in memory, and cost training time.
MOST_TEXTS = 10_000_000


def train_tokenizer(
    texts: Iterable[str],
    out: str | os.PathLike,
    vocab_size: int,
    model_type: str = "unigram",
    total: int | None = None,
) -> int:
    """Trains a SentencePiece model, writes it atomically, and returns its number of pieces.

    The model has fewer than `vocab_size` pieces if the texts do not yield that many.

    Args:
      texts: the corpus; its exceptions are passed on.
      out: the model file to write; its folder is created.
      vocab_size: the most pieces, including 4 special ones and 256 for bytes.
      model_type: one of MODEL_TYPES.
      total: the number of texts, for the progress bar; None if unknown.

    Raises:
      UserError: there is no text, `model_type` is unknown, `vocab_size` does not suit the texts, or
        `out` cannot be written.
    """
    if model_type not in MODEL_TYPES:
        raise UserError(f"model type {model_type!r} should be one of {', '.join(MODEL_TYPES)}")
    files.require_writable(out)
    corpus = _Corpus(texts, total, f"training a {vocab_size:,}-piece {model_type} model")
    start = time.monotonic()
    try:
        model = train_sentencepiece(corpus, vocab_size, model_type, MOST_TEXTS)
    except RuntimeError as error:
        raise corpus.failure or _explained(error, corpus.count, vocab_size) from error
    files.write_whole(out, model)
    print(f"trained in {time.monotonic() - start:.0f} s")
    return SentencePieceTokenizer(out).vocab_size


class _Corpus:
    """Yields the texts that are not blank, with a progress bar and a line when all are read.

    SentencePiece replaces exceptions that the texts raise by its own; `failure` keeps the original.
    """

    def __init__(self, texts: Iterable[str], total: int | None, task: str):
        self._texts, self._total, self._task = texts, total, task
        self.count = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in tqdm(self._texts, "reading texts", self._total, unit=" texts"):
                # JSON can contain half of a surrogate pair, which UTF-8 cannot encode.
                text = text.encode(errors="ignore").decode()
                if text.strip():
                    self.count += 1
                    yield text
        except BaseException as error:
            self.failure = error
            raise
        if self.count:
            print(f"{self._task} on {min(self.count, MOST_TEXTS):,} texts ...", flush=True)


def _explained(error: RuntimeError, count: int, vocab_size: int) -> UserError:
    """An error that says how to avoid the one that SentencePiece raised."""
    if not count:
        return UserError("there are no texts to train a tokenizer on")
    if few := re.search(
        r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", str(error)
    ):
        return UserError(
            f"vocab_size={vocab_size} is too small: the characters of the texts, with 256 bytes "
            f"and 4 special pieces, need {int(few[1]):,}"
        )
    return UserError(
        f"{count:,} texts cannot give a model of vocab_size={vocab_size:,} pieces: {error}"
    )
