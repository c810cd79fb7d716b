"""Search among the embeddings that `coca embed` wrote to folders, one or several.

The embeddings are put together once, in the user's cache, in a table that is mapped into memory.
Folders may grow and shrink: the table is made again if their files have changed, and replaces the
last one of the same folders. It takes 4 bytes a number. All must be of one model.
"""

import bisect
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from coca_jax.data.results import ID_COLUMNS, Results, read_embeddings
from coca_jax.errors import UserError
from coca_jax.image_search.nearest import SEARCHES, forget, map_rows
from coca_jax.io import files
from coca_jax.io.locks import locked
from coca_jax.io.paths import normalize
from coca_jax.io.stored import Damaged, read_json

PATIENCE = 3600.0  # seconds to wait for another process that puts the same table together


class Match(NamedTuple):
    """A record that was found."""

    similarity: float  # the cosine
    folder: str  # of its embedding
    key: str
    source: str  # its shard
    index: int  # its number in the shard


class StoredEmbeddings:
    """The embeddings in some folders, as one table."""

    def __init__(
        self,
        folders: Sequence[str],
        model: str,
        progress: Callable[[list[Any]], Any] = lambda pieces: pieces,
    ):
        """Puts the table together, if it is not there yet.

        Args:
          folders: that `coca embed` wrote.
          model: the identity of the model that makes the queries.
          progress: is given the files to read, and gives them back one by one.

        Raises:
          UserError: a folder holds no embeddings, or those of another model.
        """
        self._results = [Results(folder) for folder in sorted({*map(normalize, folders)})]
        for results in self._results:
            _require_model(results, model)
        self._pieces = [(r, piece) for r in self._results for piece in r.all_pieces()]
        self._path = (
            files.cache_folder("search") / "embeddings" / _hash(*(r.folder for r in self._results))
        )
        content = _hash(*(f"{piece.path} {piece.checksum}" for _, piece in self._pieces))
        self._file = self._path / f"{content}.f32"
        self._searches: dict[str, Callable] = {}
        with locked(self._path, "put together", PATIENCE):
            self._counts, width = self._stored() or self._put_together(progress)
            self._table = map_rows(self._file, sum(self._counts), width)
        self._ends = list(itertools.accumulate(self._counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def search(self, query: Float[np.ndarray, "e"], top: int, by: str = "exact") -> list[Match]:
        """The records whose images are most similar to an embedding.

        Args:
          query: of unit length.
          top: how many.
          by: "exact" or "faiss", as of `ImageIndex.search`.

        Raises:
          UserError: FAISS is asked for and not installed.
        """
        if by not in self._searches:
            rows = np.arange(len(self))
            self._searches[by] = SEARCHES[by](self._file, self._table, rows)
        scores, rows = self._searches[by](np.asarray(query, np.float32), top)
        return [self._match(*pair) for pair in zip(scores.tolist(), rows.tolist(), strict=True)]

    def _match(self, score: float, row: int) -> Match:
        number = bisect.bisect_right(self._ends, row)
        results, piece = self._pieces[number]
        at = row - self._ends[number] + self._counts[number]
        return Match(score, results.folder, *_ids(piece.path, piece.checksum)[at])

    def _stored(self) -> tuple[list[int], int] | None:
        """The rows of each file in the table and their width; None: there is no whole table."""
        try:
            content = read_json(self._file.with_suffix(".json"))
            counts, width = content["counts"], content["width"]
            complete = self._file.stat().st_size == 4 * sum(counts) * width
        except (OSError, Damaged, LookupError, TypeError):
            return None
        return (counts, width) if complete else None

    def _put_together(self, progress: Callable) -> tuple[list[int], int]:
        """Writes the table; other processes may still read the one that it replaces."""
        counts, width = [], 0
        with files.atomic(self._file) as temporary, open(temporary, "wb") as file:
            for _, piece in progress(self._pieces):
                _, embeddings = read_embeddings(piece)
                counts.append(len(embeddings))
                width = embeddings.shape[1] if len(embeddings) else width
                file.write(np.ascontiguousarray(embeddings).tobytes())
        content = json.dumps({"counts": counts, "width": width}).encode()
        files.write_whole(self._file.with_suffix(".json"), content)
        forget(self._path)
        for path in [*self._path.glob("*.f32"), *self._path.glob("*.json")]:
            if path.stem != self._file.stem:
                path.unlink(missing_ok=True)
        return counts, width


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _require_model(results: Results, model: str) -> None:
    settings = results.settings()
    if settings.get("command") != "embed":
        raise UserError(f"{results.folder} holds no embeddings; coca embed makes them")
    if settings.get("model") != model:
        raise UserError(
            f"{results.folder} holds embeddings of another model ({settings.get('model')}) than "
            f"this one ({model}): embed the data with this one, in another folder"
        )


@functools.lru_cache(maxsize=64)
def _ids(path: str, checksum: str) -> list[tuple[str, str, int]]:
    """ID_COLUMNS of each row of a file; `checksum` tells its contents apart."""
    del checksum
    from pyarrow import parquet

    if path.endswith(".npy"):
        lines = files.read_bytes(f"{path.removesuffix('.npy')}.ids.jsonl").splitlines()
        rows = [json.loads(line) for line in lines]
    else:
        with files.open_binary(path) as file:
            rows = parquet.read_table(file, columns=list(ID_COLUMNS)).to_pylist()
    return [tuple(row[name] for name in ID_COLUMNS) for row in rows]
