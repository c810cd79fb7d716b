"""The interface of a tokenizer: rows of ids [bos, ..., eos, pad, ...], and texts of such rows."""

import abc
import os
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Int, Int32

from coca_jax.errors import UserError
from coca_jax.io import files


class Tokenizer(abc.ABC):
    """Texts to rows of ids and back. Picklable, and used by many threads at a time.

    A subclass has the attributes and the two abstract methods; special ids are added and taken
    off here.
    """

    file_name: ClassVar[str] = ""  # of its file in a run's folder; empty: it needs none

    vocab_size: int  # all ids are smaller
    pad_id: int
    bos_id: int
    eos_id: int
    unk_id: int | None = None  # stands for all that has no other id; None: there is no such id
    unknown_ids: frozenset[int] = frozenset()  # unk_id, and bytes that spell unknown characters

    @abc.abstractmethod
    def to_ids(self, texts: Sequence[str], limit: int) -> Sequence[Sequence[int]]:
        """The ids of each text, without special ones. More than `limit` are not needed."""

    @abc.abstractmethod
    def to_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids, in which there are no special ones."""

    @classmethod
    def standalone_file(cls, path: str | os.PathLike) -> bytes:
        """The content of a file that alone makes the same tokenizer as the file at `path`."""
        return files.read_bytes(path)

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b {length}"]:
        """One row for each text: bos, its first `length` - 2 ids, eos, then padding.

        Raises:
          UserError: bos and eos do not fit into `length`.
        """
        if length < 2:
            raise UserError(f"the text length must be at least 2 (bos and eos), not {length}")
        rows = np.full((len(texts), length), self.pad_id, np.int32)
        for row, ids in zip(rows, self.to_ids(texts, length), strict=True):
            content = [self.bos_id, *ids[: length - 2], self.eos_id]
            row[: len(content)] = content
        return rows

    def decode(self, ids: Int[np.ndarray, "b l"]) -> list[str]:
        """The text of each row: its ids before the first eos, without bos and padding."""
        return self.to_texts([self._content(row) for row in np.asarray(ids).tolist()])

    def _content(self, row: list[int]) -> list[int]:
        if self.eos_id in row:
            row = row[: row.index(self.eos_id)]
        return [i for i in row if i not in (self.pad_id, self.bos_id)]
