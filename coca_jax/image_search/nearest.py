"""Finds the rows of a table of unit vectors most similar to a query, exactly or with FAISS."""

import hashlib
import math
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from coca_jax.errors import UserError
from coca_jax.io.files import atomic

BLOCK = 2**16  # rows compared, or added to lists, at a time
FEWEST = 10_000  # rows; smaller tables have a single list and are searched exactly
TRAINED_ON = 64  # training rows per list
READ = 8  # a query reads the nearest 1/8 of the lists
PREFIX, SUFFIX = "faiss-", ".index"  # of a file's name, around the table's and a hash of its rows
Found = tuple[Float[np.ndarray, " k"], Int64[np.ndarray, " k"]]  # descending cosines, their rows


def map_rows(table: pathlib.Path, rows: int, width: int) -> Float32[np.ndarray, "n e"]:
    """The rows of a file, mapped into memory at once.

    They stay when the file is deleted, or another takes its place.
    """
    if not rows * width:
        return np.zeros((rows, width), np.float32)
    return np.memmap(table, np.float32, "r", shape=(rows, width))


class ExactSearch:
    """Compares a query with every row, block by block."""

    def __init__(
        self,
        table: pathlib.Path,
        stored: Float32[np.ndarray, "n e"],
        live: Int64[np.ndarray, " m"],
    ):
        """Takes the arguments of `FaissSearch`; no file is kept."""
        del table
        self._stored, self._live = stored, live

    def __call__(self, query: Float32[np.ndarray, " e"], top: int) -> Found:
        """Returns the most similar live rows; of equal ones the first."""
        blocks = [self._stored[i : i + BLOCK] @ query for i in range(0, len(self._stored), BLOCK)]
        scores = np.concatenate([np.zeros(0, np.float32), *blocks])[self._live]
        best = np.arange(len(scores))
        if 0 < top < len(scores):
            best = np.flatnonzero(scores >= np.partition(scores, -top)[-top])
        best = best[np.argsort(-scores[best], kind="stable")][:top]
        return scores[best], self._live[best]


class FaissSearch:
    """Compares a query with the rows in the eighth of FAISS's lists with the nearest centers.

    The index is an inverted file (IVF-Flat): k-means splits m rows into 4 to 8 sqrt(m) lists. The
    file is mapped into memory, so a query reads only an eighth of it. Rows are added and removed
    without new centers until the number of rows calls for another number of lists. The file's name
    has that of its table, and a hash of its rows, which are exactly the live ones. If no file has
    that name, one is written, from an older file of the table if there is one.
    """

    def __init__(
        self,
        table: pathlib.Path,
        stored: Float32[np.ndarray, "n e"],
        live: Int64[np.ndarray, " m"],
    ):
        """Opens the file of these rows, or writes it.

        Args:
          table: the file of the stored rows, next to which FAISS's file lies; a table with other
            rows has another name.
          stored: rows of unit length, which never change.
          live: the sorted indices of the rows to search.

        Raises:
          UserError: FAISS is not installed.
        """
        self._faiss, self._count = import_faiss(), len(live)
        if not len(live):
            return
        rows = hashlib.sha256(live.tobytes()).hexdigest()
        path = table.with_name(f"{PREFIX}{table.stem}-{rows[:32]}{SUFFIX}")
        self._index = _read(self._faiss, path)
        if self._index is None:
            self._index = self._write(path, self._updated(table, stored, live))
        # Threads that read ahead cost more than they gain, once the file is in the system's memory.
        self._faiss.downcast_InvertedLists(self._index.invlists).prefetch_nthread = 0

    def __call__(self, query: Float32[np.ndarray, " e"], top: int) -> Found:
        """Returns the most similar live rows in the lists that are read."""
        top = min(top, self._count)
        if top < 1:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        for lists in (max(1, self._index.nlist // READ), self._index.nlist):
            self._index.nprobe = lists
            scores, rows = self._index.search(np.ascontiguousarray(query[None]), top)
            if rows[0, -1] >= 0:  # -1: these lists have fewer than `top` rows
                break
        return scores[0], rows[0]

    def _updated(self, table: pathlib.Path, stored: np.ndarray, live: np.ndarray) -> Any:
        """An index of the live rows: the newest one, updated, or a new one if the lists differ.

        It is not a graph (HNSW), because FAISS cannot remove rows from one, and building it takes
        ten times as long.
        """
        index, held = _newest(self._faiss, table), np.zeros(0, np.int64)
        if index is None or index.nlist != _lists(len(live)):
            index = self._trained(stored, live)
        else:
            held = _rows(self._faiss, index)
            index.remove_ids(np.setdiff1d(held, live))
        new = np.setdiff1d(live, held)
        for i in range(0, len(new), BLOCK):
            rows = new[i : i + BLOCK]
            index.add_with_ids(stored[rows], rows)
        return index

    def _trained(self, stored: np.ndarray, live: np.ndarray) -> Any:
        count, width = _lists(len(live)), stored.shape[1]
        centers = self._faiss.IndexFlatIP(width)
        index = self._faiss.IndexIVFFlat(centers, width, count, self._faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning if there are few
        index.cp.max_points_per_centroid = TRAINED_ON
        chosen = np.random.default_rng(0).permutation(len(live))[: TRAINED_ON * count]
        index.train(stored[live[np.sort(chosen)]])
        return index

    def _write(self, path: pathlib.Path, index: Any) -> Any:
        """Writes the index, deletes the other files, and returns it mapped from its file."""
        with atomic(path) as temporary:
            self._faiss.write_index(index, str(temporary))
        mapped = _read(self._faiss, path)
        for other in set(_files(path.parent)) - {path}:
            other.unlink(missing_ok=True)
        return index if mapped is None else mapped  # another process may have deleted it already


SEARCHES = {"exact": ExactSearch, "faiss": FaissSearch}


def import_faiss() -> Any:
    """Returns the package `faiss`.

    Raises:
      UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError("to search by FAISS: pip install coca_jax[search]") from error
    return faiss


def forget(folder: pathlib.Path) -> None:
    """Deletes FAISS's files in a folder, whose table is gone."""
    for path in _files(folder):
        path.unlink(missing_ok=True)


def _files(folder: pathlib.Path, table: str = "") -> list[pathlib.Path]:
    return sorted(folder.glob(f"{PREFIX}{table}*{SUFFIX}"))


def _lists(rows: int) -> int:
    return 2 ** math.ceil(math.log2(4 * math.sqrt(rows))) if rows >= FEWEST else 1


def _newest(faiss: Any, table: pathlib.Path) -> Any:
    """An index of the table, in memory; None if there is no undamaged one."""
    indices = (_read(faiss, path, mapped=False) for path in _files(table.parent, table.stem))
    return next((index for index in indices if index is not None), None)


def _read(faiss: Any, path: pathlib.Path, mapped: bool = True) -> Any:
    """The index in a file; None if it is missing or damaged."""
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)
    except RuntimeError:
        return None


def _rows(faiss: Any, index: Any) -> Int64[np.ndarray, " m"]:
    lists = index.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
        for i in range(index.nlist)
        if lists.list_size(i)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])
