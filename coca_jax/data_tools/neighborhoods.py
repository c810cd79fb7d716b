"""Puts records in an order in which those with similar embeddings are next to each other."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from coca_jax.data.neighborhoods import write_order
from coca_jax.data.options import data_config
from coca_jax.data.results import Results
from coca_jax.data_tools.deduplicate import open_train
from coca_jax.data_tools.embedding_duplicates import of_source
from coca_jax.errors import UserError
from coca_jax.io.files import require_writable
from coca_jax.io.messages import counted

LEAF = 8  # records that are not told apart any more
SAMPLE = 4096  # records by which a direction is chosen
ITERATIONS = 8
BLOCK = 2**14  # rows that are read at a time


def write_neighborhoods(
    data: Any, name: str, embeddings: str, output: str | os.PathLike, seed: int
) -> str:
    """Writes an order of the training records, for `data.train.neighborhoods`.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      name: the name of the data set in `data.sources`; empty: `data.train`.
      embeddings: the folder that `coca embed` wrote of this data set.
      output: the file to write.
      seed: of the places of records without an embedding.

    Returns:
      A sentence with the numbers of records, and of those without an embedding.

    Raises:
      UserError: the data set is missing, the folder holds no embeddings of it, or the file cannot
        be written.
    """
    require_writable(output)
    key, _, source = open_train(data_config(data), name)
    parts = list(of_source(source, Results(embeddings), BLOCK))
    if not sum(len(numbers) for numbers, _ in parts):
        raise UserError(f"{embeddings} has embeddings of no record of {key}")
    numbers, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    del parts
    order = numbers[neighborhoods(vectors)]
    missing = np.setdiff1d(np.arange(len(source)), numbers)
    np.random.default_rng(seed).shuffle(missing)
    write_order(output, np.concatenate([order, missing]))
    return (
        f"{counted(len(source), 'training records')} in an order by embeddings; "
        f"{len(missing):,} have none, and come last. To train with batches of neighborhoods: "
        f"--{key}.neighborhoods={output}"
    )


def neighborhoods(vectors: Float[np.ndarray, "n e"]) -> Int64[np.ndarray, " n"]:
    """An order of rows in which near ones are next to each other.

    The rows are split in half along the direction in which they vary most, and each half again,
    until a part has no more than LEAF rows (a principal axis tree, McNames 2001). Needs the time of
    n e log(n) multiplications, and the memory of the rows twice.
    """
    order, waiting, start = np.empty(len(vectors), np.int64), [np.arange(len(vectors))], 0
    while waiting:
        part = waiting.pop()
        if len(part) <= LEAF:
            order[start : start + len(part)] = part
            start += len(part)
            continue
        rows = vectors[part]
        places = rows @ _direction(rows)
        half = len(part) // 2 // LEAF * LEAF or LEAF  # whole leaves, so that few are small
        split = np.argpartition(places, half - 1)
        waiting += [part[split[half:]], part[split[:half]]]
    return order


def _direction(rows: Float[np.ndarray, "n e"]) -> Float[np.ndarray, " e"]:
    """About the first principal component, by power iteration on evenly spaced rows."""
    sample = rows[:: max(1, len(rows) // SAMPLE)].astype(np.float64)
    sample = sample - sample.mean(axis=0)
    direction = sample[np.argmax((sample**2).sum(axis=1))]
    for _ in range(ITERATIONS):
        direction = sample.T @ (sample @ direction)
        length = np.linalg.norm(direction)
        if not length:  # all rows are the same
            break
        direction = direction / length
    return direction.astype(rows.dtype)
