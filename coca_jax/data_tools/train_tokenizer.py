"""Training a SentencePiece model on the captions of a data set, with progress."""

import os
import re
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from coca_jax.errors import UserError
from coca_jax.io import files

MODEL_TYPES = ("unigram", "bpe")
# Of more, so many are drawn: all are held in memory, and the training time grows with them.
MOST_TEXTS = 10_000_000


def train_tokenizer(
    texts: Iterable[str],
    out: str | os.PathLike,
    vocab_size: int,
    model_type: str = "unigram",
    total: int | None = None,
) -> int:
    """Trains a model and writes it in one step; returns how many pieces it has.

    It has fewer pieces than `vocab_size` if the texts have no more worth a piece.

    Args:
      texts: the corpus; what it raises is raised.
      out: the model file; its folder is made.
      vocab_size: most pieces, 4 special ones and 256 of bytes included.
      model_type: one of MODEL_TYPES.
      total: how many texts there are, for the progress bar, if that is known.

    Raises:
      UserError: there is no text, or `model_type` or `vocab_size` cannot be.
    """
    if model_type not in MODEL_TYPES:
        raise UserError(f"model type {model_type!r} should be one of {', '.join(MODEL_TYPES)}")
    corpus = _Corpus(texts, total, f"training a {vocab_size:,}-piece {model_type} model")
    start = time.monotonic()
    try:
        model = train_sentencepiece(corpus, vocab_size, model_type, MOST_TEXTS)
    except RuntimeError as error:
        raise corpus.failure or _mended(error, corpus.count, vocab_size) from error
    files.write_whole(out, model)
    print(f"trained in {time.monotonic() - start:.0f} s")
    return SentencePieceTokenizer(out).vocab_size


class _Corpus:
    """The texts that are not blank, with a progress bar and a line when all are read.

    SentencePiece raises an error of its own for any in the texts, which is kept as `failure`.
    """

    def __init__(self, texts: Iterable[str], total: int | None, task: str):
        self._texts, self._total, self._task = texts, total, task
        self.count = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in tqdm(self._texts, "reading texts", self._total, unit=" texts"):
                # JSON can spell halves of characters, which have no UTF-8.
                text = text.encode(errors="ignore").decode()
                if text.strip():
                    self.count += 1
                    yield text
        except BaseException as error:
            self.failure = error
            raise
        if self.count:
            print(f"{self._task} on {min(self.count, MOST_TEXTS):,} texts ...", flush=True)


def _mended(error: RuntimeError, count: int, vocab_size: int) -> UserError:
    """What a user can do about SentencePiece's error."""
    if not count:
        return UserError("there are no texts to train a tokenizer on")
    if few := re.search(
        r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", str(error)
    ):
        return UserError(
            f"vocab_size={vocab_size} is too small: the characters of the texts, with 256 bytes "
            f"and 4 special pieces, need {int(few[1]):,}"
        )
    return UserError(f"no model of {vocab_size:,} pieces can be made of {count:,} texts: {error}")
