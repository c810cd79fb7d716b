"""Joins the records of a data set with results that were computed of it, by shard and number."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coca_jax.data.results import NOT_JOINED, Piece, Results
from coca_jax.data.sources.base import Note, Record, Shard, Source
from coca_jax.data.sources.parquet_columns import read_footer
from coca_jax.errors import UserError
from coca_jax.io.messages import counted


class JoinedSource:
    """A source whose records have captions and fields of results; picklable if the source is."""

    def __init__(
        self,
        source: Source,
        captions: Results | None,
        fields: Sequence[Results] = (),
        keep_captions: bool = False,
    ):
        """Joins by the shards' names, sizes and checksums.

        Args:
          source: of the records.
          captions: with a column `caption`, which replaces the captions of the records that have
            results.
          fields: whose columns become fields of the records.
          keep_captions: whether the records' own captions stay, before the others.

        Raises:
          UserError: no shard of the source has results, or they have no captions or fields.
        """
        _require_columns(captions, fields)
        self._source, self._captions, self._keep = source, captions, keep_captions
        self.class_names = source.class_names
        self._shards = source.shards()
        self._starts = np.cumsum([0, *(shard.records for shard in self._shards)])
        self._results = [*([captions] if captions else []), *fields]
        self._pieces = [[one.pieces(shard) for shard in self._shards] for one in self._results]
        self.notes = [*source.notes, *self._missing()]

    def _missing(self) -> Iterator[Note]:
        """One note on the shards without results, of all folders."""
        texts, total = [], 0
        for results, of_shards in zip(self._results, self._pieces, strict=True):
            pairs = zip(self._shards, of_shards, strict=True)
            without = [shard.name for shard, pieces in pairs if not pieces]
            count = counted(len(self._shards), "shards")
            if len(without) == len(self._shards):
                raise UserError(
                    f"{results.folder} has results of none of the {count}"
                    f" of the data, such as {without[0]}: they are of other data, or of shards "
                    "that have changed since"
                )
            if without:
                shown = ", ".join(without[:3]) + ", ..." * (len(without) > 3)
                text = f"{results.folder}: {counted(len(without), 'shards have no results')}"
                texts.append(f"{text}: {shown}")
                total += len(without)
        if texts:
            yield Note("without_results", total, "; ".join(texts))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Reads a record, with its results."""
        record = dict(self._source[index])
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        number = index - int(self._starts[shard])
        rows = [
            _row(results, pieces[shard], number)
            for results, pieces in zip(self._results, self._pieces, strict=True)
        ]
        if self._captions and (caption := rows.pop(0).get("caption")):
            own = record["captions"] if self._keep else []
            record["captions"] = [*own, caption]
            record.pop("no_text", None)
        for row in rows:
            record["fields"] = record["fields"] | row
        return record

    def shard(self, index: int) -> str:
        """The file that a record is in."""
        return self._source.shard(index)

    def shards(self) -> list[Shard]:
        """The files of the records, without the results."""
        return self._shards

    def joined_parts(self) -> list[Shard]:
        """What tells the results from others, for a fingerprint of the data."""
        return [results.part() for results in self._results]


def _row(results: Results, pieces: Sequence[Piece], number: int) -> dict[str, Any]:
    for piece in pieces:
        if piece.first <= number < piece.first + piece.count:
            return results.row(piece, number)
    return {}


def _require_columns(captions: Results | None, fields: Sequence[Results]) -> None:
    if captions and (command := captions.settings().get("command")) != "caption":
        raise UserError(f"{captions.folder} holds results of coca {command}, and no captions")
    for results in fields:
        if any(piece.path.endswith(".npy") for piece in results.all_pieces()):
            raise UserError(
                f"{results.folder} holds .npy files: fields are read from Parquet files"
            )
        # The other files have the same columns.
        names = read_footer(results.all_pieces()[0].path).schema.names
        if not set(names) - set(NOT_JOINED):
            raise UserError(
                f"{results.folder} holds no column that can be a field, only {', '.join(names)}"
            )
