"""Joins the records of a data set with results that were computed of it, by shard and number.

Results are folders of Parquet files, as `coca caption`, `coca embed` and `coca score-pairs` write
them: `_done/NAME.json` says which records of which shard are in `NAME.parquet`. A file is written
again, as Arrow's format that can be mapped into memory, when the first of its rows is read: so rows
are read at random, and memory does not grow with the data set.
"""

import functools
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data.sources.base import Note, Record, Shard, Source
from coca_jax.errors import UserError
from coca_jax.io import files, folders, paths
from coca_jax.io.messages import counted
from coca_jax.io.stored import Damaged, fits, read_json

DONE = "_done"
ID_COLUMNS = ("key", "source", "index")  # of every row: `index` is its number in the shard
NOT_JOINED = (*ID_COLUMNS, "embedding", "others")
MAPPED = 256  # files that are mapped at the same time


class Piece(NamedTuple):
    """Results of consecutive records of a shard."""

    path: str  # of the Parquet file
    first: int  # number in the shard of the first record
    count: int  # of records, which may have no result


class Results:
    """The results in one folder; picklable."""

    def __init__(self, folder: str, cache_dir: str = ""):
        """Reads which records have results.

        Args:
          folder: that a command wrote.
          cache_dir: for the mapped files; empty: the user's own.

        Raises:
          UserError: it holds no results.
        """
        self.folder = os.fspath(paths.as_path(folder))
        self._cache = files.cache_folder("results", cache_dir and paths.join(cache_dir, "results"))
        self._pieces: dict[tuple[str, int, str], list[Piece]] = {}
        self._stamps = zlib.crc32(b"")
        for path in folders.children(paths.join(self.folder, DONE)):
            if path.name.endswith(".json") and path.name[0] != ".":
                self._add(path)
        if not self._pieces:
            raise UserError(f"{self.folder} holds no results of coca caption or coca score-pairs")

    def _add(self, path: Any) -> None:
        try:
            content = read_json(path)
        except Damaged as error:
            raise UserError(f"{path} {error}") from error
        identity = content.get("shard")
        if not fits(content, {"shard": list}) or len(identity) != 5:
            raise UserError(f"{path} is not what coca caption writes")
        name, size, checksum, first, count = identity
        file = paths.join(self.folder, f"{path.name.removesuffix('.json')}.parquet")
        if not files.is_file(file):
            raise UserError(f"{file} is missing: results are joined from Parquet files only")
        pieces = self._pieces.setdefault((name, size, checksum), [])
        pieces.append(Piece(file, first, count))
        pieces.sort(key=lambda piece: piece.first)
        self._stamps = zlib.crc32(repr((identity, files.stamp(file).size)).encode(), self._stamps)

    def pieces(self, shard: Shard) -> list[Piece]:
        """The files with results of a shard, in order; none if the shard has changed."""
        return self._pieces.get((shard.name, shard.size, shard.checksum), [])

    def part(self) -> Shard:
        """What tells these results from others, for a fingerprint of the data."""
        count = sum(piece.count for pieces in self._pieces.values() for piece in pieces)
        return Shard(f"results in {self.folder}", 0, count, f"{self._stamps:08x}")

    def row(self, piece: Piece, index: int) -> dict[str, Any]:
        """The results of a record of a shard; empty if it has none."""
        indices, table = _mapped(piece.path, str(self._cache))
        at = int(np.searchsorted(indices, index))
        if at == len(indices) or indices[at] != index:
            return {}
        names = [name for name in table.column_names if name not in NOT_JOINED]
        return {name: table.column(name)[at].as_py() for name in names}


@functools.lru_cache(maxsize=MAPPED)
def _mapped(path: str, cache: str) -> tuple[np.ndarray, Any]:
    """The numbers of the rows of a Parquet file in their shard, and its table, mapped."""
    import pyarrow

    stamp = files.stamp(path)
    name = hashlib.sha256(f"{path} {stamp}".encode()).hexdigest()[:32]
    target = os.path.join(cache, f"{name}.arrow")
    if not os.path.exists(target):
        os.makedirs(cache, exist_ok=True)
        _write_arrow(path, target)
    table = pyarrow.ipc.open_file(pyarrow.memory_map(target)).read_all()
    return table.column("index").combine_chunks().to_numpy(), table


def _write_arrow(path: str, target: str) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        with files.open_binary(path) as file:
            opened = parquet.ParquetFile(file)
            kept = [name for name in opened.schema_arrow.names if name not in NOT_JOINED]
            table = opened.read(["index", *kept]).combine_chunks()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as a Parquet file: {error}") from error
    with (
        files.atomic(target) as temporary,
        pyarrow.ipc.new_file(str(temporary), table.schema) as writer,
    ):
        writer.write_table(table)


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
          UserError: no shard of the source has results.
        """
        self._source, self._captions, self._fields = source, captions, list(fields)
        self._keep = keep_captions
        self.class_names = source.class_names
        shards = source.shards()
        self._starts = np.cumsum([0, *(shard.records for shard in shards)])
        results = [*([captions] if captions else []), *self._fields]
        self._pieces = [[one.pieces(shard) for shard in shards] for one in results]
        self._results = results
        self.notes = [*source.notes, *self._missing(shards)]

    def _missing(self, shards: Sequence[Shard]) -> Iterator[Note]:
        for results, pieces in zip(self._results, self._pieces, strict=True):
            without = [s.name for s, found in zip(shards, pieces, strict=True) if not found]
            if len(without) == len(shards):
                raise UserError(
                    f"{results.folder} has results of none of the {counted(len(shards), 'shards')}"
                    f" of the data, such as {without[0]}: they are of other data, or of shards "
                    "that have changed since"
                )
            if without:
                shown = ", ".join(without[:3]) + ", ..." * (len(without) > 3)
                text = f"{results.folder}: {counted(len(without), 'shards have no results')}"
                yield Note("without_results", len(without), f"{text}: {shown}")

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
        record["fields"] = {**record["fields"], **{k: v for row in rows for k, v in row.items()}}
        return record

    def shard(self, index: int) -> str:
        """The file that a record is in."""
        return self._source.shard(index)

    def shards(self) -> list[Shard]:
        """The files of the records, and what tells the results from others."""
        return self._source.shards()

    def joined_parts(self) -> list[Shard]:
        """What tells the results from others, for a fingerprint of the data."""
        return [results.part() for results in self._results]


def _row(results: Results, pieces: Sequence[Piece], number: int) -> dict[str, Any]:
    for piece in pieces:
        if piece.first <= number < piece.first + piece.count:
            return results.row(piece, number)
    return {}
