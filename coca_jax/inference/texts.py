"""The ids of prompts, and of texts that may follow them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from coca_jax.data.tokenizers import Tokenizer
from coca_jax.errors import UserError
from coca_jax.io.messages import shortened

ROUND = 8  # candidates are padded to a multiple of this many tokens, so that few sizes compile


def prompt_ids(
    tokenizer: Tokenizer, prompt: str | Sequence[str], count: int, context_length: int
) -> tuple[Int32[np.ndarray, "b p"], Int32[np.ndarray, " b"]]:
    """The ids of the prompt of each image, with the begin token, and their number.

    Args:
      tokenizer: the model's.
      prompt: one for all images, or one each.
      count: of the images.
      context_length: tokens of the model's texts.

    Raises:
      UserError: there are not as many prompts as images, or one leaves no room for a text.
    """
    prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count or not count:
        raise UserError(f"there are {len(prompts)} prompts for {count} images")
    rows = prompt_rows(tokenizer, prompts, context_length)
    lengths = np.array([len(row) for row in rows], np.int32)
    if lengths.max() >= context_length:
        longest = shortened(prompts[lengths.argmax()])
        raise UserError(
            f"the prompt {longest!r} leaves no room for a text: with the begin token it has "
            f"{context_length} tokens or more, and the model's texts have at most {context_length}"
        )
    return _padded([rows], int(lengths.max()))[0], lengths


def prompt_rows(
    tokenizer: Tokenizer, prompts: Sequence[str], context_length: int
) -> list[list[int]]:
    """The ids of each prompt, with the begin token; `context_length` or more leave no room."""
    # Two more than there are places, so that a prompt that is cut is too long, too.
    return [row[:-1] for row in _ids(tokenizer, prompts, context_length + 2)]


def candidate_ids(
    tokenizer: Tokenizer, texts: Sequence[Sequence[str]], room: int
) -> tuple[Int32[np.ndarray, "n k t"], Int32[np.ndarray, "n k"]]:
    """The ids of k texts for each of n images, without the begin token, and their number.

    Args:
      tokenizer: the model's.
      texts: of each image.
      room: tokens that a text may have, which is cut to them.

    Raises:
      UserError: there are no texts, or not as many for each image.
    """
    require_texts(texts)
    # Without the begin token, which the prompt has.
    ids = [[row[1:] for row in _ids(tokenizer, of_image, room + 1)] for of_image in texts]
    lengths = np.array([[len(row) for row in rows] for rows in ids], np.int32)
    return _padded(ids, min(room, -(-int(lengths.max()) // ROUND) * ROUND)), lengths


def as_texts(texts: Sequence[Any]) -> Sequence[Any]:
    """Texts as they are; a single `str`, itself a sequence of texts in Python, as one text."""
    return [texts] if isinstance(texts, str) else texts


def require_texts(texts: Sequence[Sequence[str]]) -> None:
    """Raises a UserError if there are no texts, or not as many for each image."""
    if not len(texts) or {len(row) for row in texts} != {len(texts[0]) or 1}:
        raise UserError("each image needs as many texts as the others, and at least one")


def require_ids(ids: Any) -> None:
    """Raises a UserError if these are not rows of token ids."""
    if np.ndim(ids) != 2:
        raise UserError(
            f"ids have the shape {np.shape(ids)}, and should be rows [b, l] of token ids: "
            "`tokenize` makes them of texts"
        )


def _ids(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[list[int]]:
    """The ids of each text from the begin token to the end token, cut to `length`."""
    rows = tokenizer.encode(texts, length).tolist()
    # The last end token, since a text may contain one.
    ends = [len(row) - row[::-1].index(tokenizer.eos_id) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def _padded(rows: Sequence[Sequence[Sequence[int]]], length: int) -> Int32[np.ndarray, "n k l"]:
    """Rows of ids in one array, with zeros behind them."""
    result = np.zeros((len(rows), len(rows[0]), length), np.int32)
    for i, row in enumerate(rows):
        for j, ids in enumerate(row):
            result[i, j, : len(ids)] = ids
    return result
