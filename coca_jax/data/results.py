"""Results that were computed of a data set, and lie in Parquet files next to each other.

`coca caption`, `coca embed` and `coca score-pairs` write such folders: `_done/NAME.json` says which
records of which shard are in `NAME.parquet`. To read rows at random, a file is written again, in
Arrow's format that can be mapped into memory, when the first of its rows is read.
"""

import functools
import hashlib
import io
import json
import os
import zlib
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, Int64

from coca_jax.data.sources.base import Shard
from coca_jax.errors import UserError
from coca_jax.io import files, folders, paths
from coca_jax.io.stored import Damaged, fits, read_json

DONE, SETTINGS = "_done", "_settings.json"
IDENTITY = 5  # values of a shard in a record: name, size, checksum, first record, count
ID_COLUMNS = ("key", "source", "index")  # of every row: `index` is its number in the shard
NOT_JOINED = (*ID_COLUMNS, "embedding", "others", "stored")
MAPPED = 256  # files that are mapped at the same time


class Piece(NamedTuple):
    """Results of consecutive records of a shard."""

    path: str  # of the Parquet file
    first: int  # number in the shard of the first record
    count: int  # of records, which may have no result
    checksum: str  # of the file
    shard: str  # its name


class Results:
    """The results in one folder; picklable."""

    def __init__(self, folder: str, cache_dir: str = ""):
        """Reads which records have results.

        Args:
          folder: that a command wrote.
          cache_dir: for the mapped files; empty: the user's own.

        Raises:
          UserError: it holds no results, or some of other settings than the others.
        """
        self.folder = os.fspath(paths.as_path(folder))
        self._cache = files.cache_folder("results", cache_dir and paths.join(cache_dir, "results"))
        self._pieces: dict[tuple[str, int, str], list[Piece]] = {}
        self._settings: dict[str, str] = {}  # a record's name for each checksum of settings
        self._checksum = 0
        written = {path.name for path in folders.children(self.folder)}
        for path in folders.children(paths.join(self.folder, DONE)):
            if path.name.endswith(".json") and path.name[0] != ".":
                self._add(path, written)
        if not self._pieces:
            raise UserError(
                f"{self.folder} holds no results of coca caption, coca embed or coca score-pairs"
            )

    def _add(self, path: Any, written: set[str]) -> None:
        try:
            content = read_json(path)
        except Damaged as error:
            raise UserError(f"{path} {error}") from error
        identity = content.get("shard")
        shape = {"shard": list, "checksum": str, "settings?": str}
        if not fits(content, shape) or len(identity) != IDENTITY:
            raise UserError(f"{path} is not what coca caption writes")
        if settings := content.get("settings"):  # earlier versions wrote none
            self._settings.setdefault(settings, path.name)
        if len(self._settings) > 1:
            raise UserError(
                f"{self.folder} has results of several commands with different settings, such as "
                f"{' and '.join(self._settings.values())} in {DONE}: write them to a new folder"
            )
        name, size, checksum, first, count = identity
        stem = path.name.removesuffix(".json")
        file = next((stem + end for end in (".parquet", ".npy") if stem + end in written), "")
        if not file and f"{stem}.jsonl" in written:
            raise UserError(
                f"{self.folder} was written with --format jsonl; results are read from Parquet "
                "files, and embeddings from .npy, too"
            )
        if not file:
            wanted = paths.join(self.folder, f"{stem}.parquet")
            raise UserError(f"{wanted} is missing: results are read from Parquet files")
        pieces = self._pieces.setdefault((name, size, checksum), [])
        file = paths.join(self.folder, file)
        pieces.append(Piece(file, first, count, content["checksum"], name))
        pieces.sort(key=lambda piece: piece.first)
        known = repr((identity, content["checksum"])).encode()
        self._checksum = zlib.crc32(known, self._checksum)

    def pieces(self, shard: Shard) -> list[Piece]:
        """The files with results of a shard, in order; none if the shard has changed."""
        return self._pieces.get((shard.name, shard.size, shard.checksum), [])

    def all_pieces(self) -> list[Piece]:
        """All files, sorted by their names."""
        return sorted(piece for pieces in self._pieces.values() for piece in pieces)

    def settings(self) -> dict[str, Any]:
        """The command, the model and the options that made the results.

        Raises:
          UserError: the file with them is missing or damaged.
        """
        path = paths.join(self.folder, SETTINGS)
        try:
            return read_json(path)
        except (FileNotFoundError, Damaged) as error:
            raise UserError(f"{path} cannot be read: {error}") from error

    def part(self) -> Shard:
        """What tells these results from others, for a fingerprint of the data."""
        count = sum(piece.count for pieces in self._pieces.values() for piece in pieces)
        return Shard(f"results in {self.folder}", 0, count, f"{self._checksum:08x}")

    def row(self, piece: Piece, index: int) -> dict[str, Any]:
        """The results of a record of a shard; empty if it has none."""
        indices, table = _mapped(piece.path, piece.checksum, str(self._cache))
        at = int(np.searchsorted(indices, index))
        if at == len(indices) or indices[at] != index:
            return {}
        names = [name for name in table.column_names if name not in NOT_JOINED]
        return {name: table.column(name)[at].as_py() for name in names}


@functools.lru_cache(maxsize=MAPPED)
def _mapped(path: str, checksum: str, cache: str) -> tuple[np.ndarray, Any]:
    """The numbers of the rows of a Parquet file in their shard, and its table, mapped."""
    import pyarrow

    stamp = files.stamp(path)
    name = hashlib.sha256(f"{path} {stamp} {checksum}".encode()).hexdigest()[:32]
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


def read_embeddings(piece: Piece) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n e"]]:
    """The embeddings that `coca embed` wrote to a file, and the numbers of their records.

    Args:
      piece: of the results.

    Raises:
      UserError: the file is missing or damaged, or holds no embeddings.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        if piece.path.endswith(".npy"):
            lines = files.read_bytes(f"{piece.path.removesuffix('.npy')}.ids.jsonl").splitlines()
            numbers = np.array([json.loads(line)["index"] for line in lines], np.int64)
            table = np.load(io.BytesIO(files.read_bytes(piece.path)), allow_pickle=False)
            return numbers, table.astype(np.float32)
        with files.open_binary(piece.path) as file:
            opened = parquet.ParquetFile(file)
            if not opened.metadata.num_rows:
                return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
            table = opened.read(["index", "embedding"])
        numbers = table.column("index").to_numpy()
        column = table.column("embedding").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return numbers, flat.reshape(len(numbers), -1)
    except (OSError, EOFError, KeyError, ValueError, BadZipFile, pyarrow.ArrowException) as error:
        raise UserError(f"no embeddings can be read from {piece.path}: {error}") from error
