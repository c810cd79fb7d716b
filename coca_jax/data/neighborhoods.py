"""Batches of neighborhoods: records whose images look alike are drawn one after the other.

In a batch of random pairs most texts are easy to tell from the right one. Where the records of a
batch are near each other in the embeddings of an earlier model, the contrastive loss compares each
pair with hard negatives, as ANCE (arXiv 2007.00808) finds them for texts.
`coca data neighborhoods` writes the order that says which records are near each other.
"""

import functools
import io
import os
import zipfile

import numpy as np
from jaxtyping import Int64

from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.messages import cause


class NeighborhoodOrder:
    """An endless order of records, all of them once in an epoch, neighbors next to each other.

    In every epoch the neighborhoods come in a new random order, and begin at another record of the
    list, so that no two records are always apart. The record of an index is computed by itself.

    Args:
      order: the number of each record, neighbors next to each other.
      size: records of a neighborhood.
      seed: of the random order.
    """

    def __init__(self, order: Int64[np.ndarray, " n"], size: int, seed: int):
        import grain

        self._order, self._size, self._seed = order, min(size, len(order)), seed
        self._count = len(order) // self._size
        self._shuffled = grain.MapDataset.range(self._count).seed(seed % 2**32).shuffle()

    def __getitem__(self, index: int) -> int:
        """The record of an index, which has no end."""
        epoch, place = divmod(index, len(self._order))
        number, within = divmod(place, self._size)
        if number < self._count:  # what is left over at the end of the list comes last
            number = self._shuffled[epoch * self._count + number]
        begin = _first_of_epoch(self._seed, epoch, len(self._order))
        return int(self._order[(begin + number * self._size + within) % len(self._order)])


@functools.lru_cache(maxsize=64)
def _first_of_epoch(seed: int, epoch: int, count: int) -> int:
    return int(np.random.default_rng((seed % 2**32, epoch)).integers(count))


def write_order(path: str | os.PathLike, order: Int64[np.ndarray, " n"]) -> None:
    """Writes an order of records in one step, as a .npy file."""
    content = io.BytesIO()
    np.save(content, order.astype(np.int64), allow_pickle=False)
    files.write_whole(path, content.getvalue())


def read_order(path: str | os.PathLike, size: int) -> Int64[np.ndarray, " n"]:
    """Reads what `write_order` wrote.

    Args:
      path: a file or URL.
      size: the number of records of the data set.

    Raises:
      UserError: the file cannot be read, or has not every record of such a data set once.
    """
    try:
        with files.open_binary(os.fspath(path)) as file:
            order = np.load(io.BytesIO(file.read()), allow_pickle=False)
    except OSError as error:
        raise UserError(f"no order can be read from {path}: {cause(error, path)}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a .npy file: {error}") from error
    if not isinstance(order, np.ndarray):
        raise UserError(f"{path} is not a .npy file: it holds several arrays")
    if order.ndim != 1 or order.dtype.kind not in "iu" or len(order) != size:
        raise UserError(
            f"{path} holds {order.dtype} of shape {order.shape}, but the data set has {size:,} "
            "records; `coca data neighborhoods` writes one number for each"
        )
    seen = np.zeros(size, bool)
    outside = order[(order < 0) | (order >= size)]
    if len(outside):
        raise UserError(f"{path} has the record {outside[0]}, and the data set has {size:,}")
    seen[order] = True
    if not seen.all():
        raise UserError(f"{path} lacks the record {int(np.argmin(seen))}, and has another twice")
    return order.astype(np.int64)
