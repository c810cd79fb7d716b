"""Tokenizers: texts to rows of token ids and back; a file for each kind.

A kind is a subclass of `Tokenizer`, which is called with the path of its file if it has a
`file_name`, else with nothing. A user's own is registered by the configuration file that uses it:

    @tokenizers.register("words")
    class WordTokenizer(Tokenizer):
        ...
"""

import os

from coca_jax.data.tokenizers.base import Tokenizer
from coca_jax.errors import UserError
from coca_jax.registry import Registry

tokenizers: Registry[type[Tokenizer]] = Registry(
    "tokenizer",
    {
        "sentencepiece": "coca_jax.data.tokenizers.sentence_piece:SentencePieceTokenizer",
        "byte": "coca_jax.data.tokenizers.byte:ByteTokenizer",
        "clip": "coca_jax.data.tokenizers.clip_bpe:ClipTokenizer",
        "json": "coca_jax.data.tokenizers.tokenizer_json:JsonTokenizer",
    },
)


def make_tokenizer(kind: str, path: str | os.PathLike | None = None) -> Tokenizer:
    """Makes a tokenizer.

    Args:
      kind: a name in `tokenizers`.
      path: its file, if the kind has one; otherwise it is not looked at.

    Raises:
      UserError: there is no such kind, or its file is missing, broken or lacks a special token.
    """
    tokenizer_class = tokenizers[kind]
    if not tokenizer_class.file_name:
        return tokenizer_class()
    if not path:
        raise UserError(f"tokenizer {kind!r} needs the path of a file")
    return tokenizer_class(path)


__all__ = ["Tokenizer", "make_tokenizer", "tokenizers"]
