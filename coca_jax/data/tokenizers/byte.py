"""The tokenizer of UTF-8 bytes."""

from collections.abc import Sequence

from coca_jax.data.tokenizers.base import Tokenizer


class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8, after the three special ids; needs no file."""

    pad_id, bos_id, eos_id = 0, 1, 2
    vocab_size = 3 + 256

    def to_ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """See `Tokenizer.to_ids`."""
        # A character has at least one byte, so that `limit` characters are enough.
        return [[3 + byte for byte in text[:limit].encode()] for text in texts]

    def to_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokenizer.to_texts`; bytes that are not UTF-8 become U+FFFD."""
        return [bytes(i - 3 for i in row if i >= 3).decode(errors="replace") for row in rows]
