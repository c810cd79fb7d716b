"""Packing: several short texts share a row, so that fewer tokens are padding.

Each row gets the same number of texts, whose images follow each other in the batch. Texts are
shared out among the rows of a block of consecutive examples, long ones with short ones; blocks are
small and of a fixed size, so that a batch does not depend on the number of processes.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from coca_jax import fields
from coca_jax.data.errors import CUT_TEXT
from coca_jax.fields import field

ROWS_PER_BLOCK = 8
MIN_TOKENS = 3  # of a text: bos, one of its own, eos


@dataclasses.dataclass(frozen=True)
class PackingConfig:
    """Options of packing."""

    texts_per_row: int = field(
        1,
        "Texts that share a row, in training. 1: each has its own. The batch of a process should "
        f"be divisible by {ROWS_PER_BLOCK} times as many.",
        fields.integer(1, 1024),
        resumable=True,
    )
    row_length: int = field(
        0,
        "Tokens of a shared row. If its texts have more, the longest are cut, and counted as "
        f"`train/{CUT_TEXT}`. `coca data inspect` shows a length that cuts none of what it reads.",
        fields.integer(),
        resumable=True,
    )

    @property
    def examples_per_block(self) -> int:
        """Consecutive examples whose texts are shared out among the rows of a block."""
        return ROWS_PER_BLOCK * self.texts_per_row if self.texts_per_row > 1 else 1


class Packed(NamedTuple):
    """Packed texts, and the order of their examples."""

    order: Int[np.ndarray, " b"]  # of the examples, row by row
    text: Int32[np.ndarray, "rows t"]
    segments: Int32[np.ndarray, "rows t"]  # the number of each token's text, from 1; 0: padding
    cut: Int32[np.ndarray, " rows"]  # texts that lost their ends


def pack(ids: Int32[np.ndarray, "b l"], pad_id: int, options: PackingConfig) -> Packed:
    """Packs the texts of blocks of consecutive examples.

    Args:
      ids: a text in each row: bos, its content, eos, padding. There are whole blocks of them.
      pad_id: the id of padding.
      options: more than one text in a row.
    """
    count, length, block = options.texts_per_row, options.row_length, options.examples_per_block
    used = np.cumsum((ids != pad_id)[:, ::-1], axis=1)[:, ::-1] > 0  # up to the last real token
    lengths = used.sum(axis=1)
    rows = [
        start + row
        for start in range(0, len(ids), block)
        for row in shared_out(lengths[start : start + block], count)
    ]
    text = np.full((len(rows), length), pad_id, np.int32)
    segments, cut = np.zeros_like(text), np.zeros(len(rows), np.int32)
    for i, row in enumerate(rows):
        limit, end = longest_that_fits(lengths[row], length), 0
        for number, example in enumerate(row, 1):
            size = min(lengths[example], limit)
            place = slice(end, end + size)
            text[i, place], segments[i, place] = ids[example, :size], number
            if size < lengths[example]:
                text[i, end + size - 1] = ids[example, lengths[example] - 1]  # eos
                cut[i] += 1
            end += size
    return Packed(np.concatenate(rows), text, segments, cut)


def shared_out(lengths: Int[np.ndarray, " b"], count: int) -> list[Int[np.ndarray, " count"]]:
    """The numbers of the texts of each row, `count` in each.

    The longest go first, each to the row with the fewest tokens so far.
    """
    rows: list[list[int]] = [[] for _ in range(len(lengths) // count)]
    totals = [0] * len(rows)
    for text in np.argsort(-lengths, kind="stable").tolist():
        row = min((i for i, r in enumerate(rows) if len(r) < count), key=totals.__getitem__)
        rows[row].append(text)
        totals[row] += int(lengths[text])
    return [np.array(row) for row in rows]


def longest_that_fits(lengths: Int[np.ndarray, " n"], total: int) -> int:
    """The largest length that texts may be cut to so that all together have at most `total`."""
    limit = int(lengths.max())
    while np.minimum(lengths, limit).sum() > total:
        limit -= 1
    return limit


def packing_errors(
    options: PackingConfig, context_length: int, batch_size: int, part: str = "the batch"
) -> Iterator[str]:
    """Yields messages on options of packing that have no effect, or do not fit a batch.

    Args:
      options: the section `data.packing`.
      context_length: the most tokens of a text.
      batch_size: examples of what is packed by itself.
      part: its name, for the message.
    """
    count, length, block = options.texts_per_row, options.row_length, options.examples_per_block
    if count == 1:
        if length:
            yield f"config.data.packing.row_length={length} has no effect: texts_per_row=1"
        return
    least, most = MIN_TOKENS * count, count * context_length
    if not least <= length <= most:
        yield (
            f"config.data.packing.row_length={length} should be from {least} to {most}, for "
            f"{count} texts of at most {context_length} tokens"
        )
    if batch_size % block:
        yield (
            f"config.data.packing.texts_per_row={count} packs {block} examples at a time "
            f"({ROWS_PER_BLOCK} rows), which should divide the {batch_size} examples of {part}"
        )
