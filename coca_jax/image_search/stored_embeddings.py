"""Search among the embeddings that `coca embed` wrote to folders, one or several.

The embeddings are put together once, in the user's cache, in a table that is mapped into memory.
Folders may grow and shrink: the table is made again if their files have changed. All must be of one
model.
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
from coca_jax.image_search.nearest import SEARCHES, forget
from coca_jax.io import files
from coca_jax.io.locks import locked
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
        self._results = [Results(folder) for folder in folders]
        for results in self._results:
            _require_model(results, model)
        self._pieces = [(r, piece) for r in self._results for _, piece in r.all_pieces()]
        identity = json.dumps([r.folder for r in self._results])
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._path = files.cache_folder("search") / "embeddings" / name
        self._searches: dict[str, Callable] = {}
        with locked(self._path, "put together", PATIENCE):
            self._counts, self._width = self._stored() or self._put_together(progress)
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
            shape = (len(self), self._width)
            table = np.memmap(self._file, np.float32, "r", shape=shape) if len(self) else None
            table = np.zeros((0, len(query)), np.float32) if table is None else table
            self._searches[by] = SEARCHES[by](self._path, table, rows)
        scores, rows = self._searches[by](np.asarray(query, np.float32), top)
        return [self._match(*pair) for pair in zip(scores.tolist(), rows.tolist(), strict=True)]

    @property
    def _file(self) -> Any:
        return self._path / "embeddings.f32"

    def _match(self, score: float, row: int) -> Match:
        number = bisect.bisect_right(self._ends, row)
        results, piece = self._pieces[number]
        at = row - self._ends[number] + self._counts[number]
        return Match(score, results.folder, *_ids(piece.path)[at])

    def _stored(self) -> tuple[list[int], int] | None:
        """The rows of each file in the table and their width; None if files have changed."""
        try:
            content = read_json(self._path / "files.json")
            counts, width = content["counts"], content["width"]
            complete = self._file.stat().st_size == 4 * sum(counts) * width
        except (OSError, Damaged, LookupError, TypeError):
            return None
        return (counts, width) if complete and content.get("files") == self._stamps() else None

    def _stamps(self) -> list[list[Any]]:
        return [[piece.path, *files.stamp(piece.path)] for _, piece in self._pieces]

    def _put_together(self, progress: Callable) -> tuple[list[int], int]:
        (self._path / "files.json").unlink(missing_ok=True)
        forget(self._path)
        stamps, counts, width = self._stamps(), [], 0
        with open(self._file, "wb") as file:
            for _, piece in progress(self._pieces):
                _, embeddings = read_embeddings(piece)
                counts.append(len(embeddings))
                if len(embeddings):
                    width = embeddings.shape[1]
                    file.write(np.ascontiguousarray(embeddings).tobytes())
        content = {"files": stamps, "counts": counts, "width": width}
        files.write_whole(self._path / "files.json", json.dumps(content).encode())
        return counts, width


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
def _ids(path: str) -> list[tuple[str, str, int]]:
    """ID_COLUMNS of each row of a file."""
    from pyarrow import parquet

    if path.endswith(".npy"):
        lines = files.read_bytes(f"{path.removesuffix('.npy')}.ids.jsonl").splitlines()
        rows = [json.loads(line) for line in lines]
    else:
        with files.open_binary(path) as file:
            rows = parquet.read_table(file, columns=list(ID_COLUMNS)).to_pylist()
    return [tuple(row[name] for name in ID_COLUMNS) for row in rows]
