"""SentencePiece models: the tokenizer, and how one is trained."""

import io
import os
from collections.abc import Iterable, Sequence

import sentencepiece

from coca_jax.data.tokenizers.base import Tokenizer
from coca_jax.errors import UserError
from coca_jax.io import files

PATHS = ("input", "model_prefix", "seed_sentencepieces_file")  # of a TrainerSpec


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, which must have its padding, bos and eos pieces."""

    file_name = "tokenizer.model"

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
        byte_ids = (i for i in range(self.vocab_size) if self._model.is_byte(i))
        self.unknown_ids = frozenset([self.unk_id, *byte_ids])

    @classmethod
    def standalone_file(cls, path: str | os.PathLike) -> bytes:
        """See `Tokenizer.standalone_file`; without the paths that the model was trained with."""
        from google.protobuf.message import DecodeError
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        content = files.read_bytes(path)
        try:
            model = ModelProto.FromString(content)
        except DecodeError:
            return content  # which `__init__` refuses
        there = [name for name in PATHS if getattr(model.trainer_spec, name, None)]
        for name in there:
            model.trainer_spec.ClearField(name)
        return model.SerializeToString(deterministic=True) if there else content

    def to_ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """See `Tokenizer.to_ids`."""
        del limit
        return [self._model.encode(text) for text in texts]

    def to_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokenizer.to_texts`."""
        return [self._model.decode(row) for row in rows]


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, model_type: str = "bpe", most_texts: int | None = None
) -> bytes:
    """Trains a model of at most `vocab_size` pieces, bytes included; returns its file.

    Byte pairs by default, since a unigram model leaves the words of a small, regular corpus in
    fragments.

    Args:
      texts: the corpus.
      vocab_size: with special pieces and the 256 of bytes.
      model_type: "bpe" or "unigram".
      most_texts: if there are more, this many (above 100) are drawn, always the same; None: all are
        used.

    Raises:
      RuntimeError: SentencePiece cannot train on these texts.
    """
    model = io.BytesIO()
    sample = {"input_sentence_size": most_texts, "shuffle_input_sentence": True}
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
        **(sample if most_texts else {}),
    )
    return model.getvalue()
