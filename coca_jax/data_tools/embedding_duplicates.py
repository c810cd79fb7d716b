"""Searches for training images whose embedding is similar to one of an evaluation's images."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from coca_jax.data.exclude_list import write_list
from coca_jax.data.options import data_config
from coca_jax.data.results import Results, read_embeddings
from coca_jax.data.sources import Source
from coca_jax.data_tools.deduplicate import open_train
from coca_jax.errors import UserError
from coca_jax.io.files import require_writable
from coca_jax.io.messages import counted

BLOCK_BYTES = 2**28  # of similarities that are computed at a time
# Of the list; `set_record` is the number of the reference in its shard.
COLUMNS = ("record", "set", "set_shard", "set_record", "distance")


class References(NamedTuple):
    """The embeddings in one folder."""

    folder: str
    shards: list[str]  # the name of the shard of each file of results
    ends: Int64[np.ndarray, " p"]  # the number of the row after each file's last
    indices: Int64[np.ndarray, " r"]  # the number of each record in its shard
    table: Float32[np.ndarray, "r d"]


def deduplicate_by_embeddings(
    data: Any,
    name: str,
    embeddings: str,
    references: Sequence[str],
    similarity: float,
    output: str | os.PathLike,
) -> str:
    """Lists the training images whose embedding is similar to one of the references.

    Args:
      data: `config.data`, as options or as a section of the configuration.
      name: the name of the data set in `data.sources`; empty: `data.train`.
      embeddings: the folder that `coca embed` wrote of this data set.
      references: folders that it wrote of evaluations' images, with the same model.
      similarity: the least cosine of two images that are taken to be the same.
      output: the file to write, for `data.train.exclude_list`.

    Returns:
      A sentence with the numbers of duplicates and of images without an embedding.

    Raises:
      UserError: the data set is missing, a folder holds no embeddings or those of another model, or
        the file cannot be written.
    """
    require_writable(output)
    key, options, source = open_train(data_config(data), name)
    train, others = Results(embeddings), [Results(folder) for folder in references]
    models = {results.folder: results.settings().get("model") for results in (train, *others)}
    if len(set(models.values())) > 1:
        raise UserError(f"these are embeddings of different models: {models}")
    sets = [_whole(results) for results in others]
    rows, compared = [], 0
    rows_at_a_time = max(1, BLOCK_BYTES // (4 * max(1, *(len(one.table) for one in sets))))
    for numbers, vectors in of_source(source, train, rows_at_a_time):
        compared += len(numbers)
        for one in sets:
            rows += _near(numbers, vectors, one, similarity)
    if not compared:
        raise UserError(f"{train.folder} has embeddings of no record of {key}")
    records = sorted({row[0] for row in rows})
    write_list(output, sorted(rows), options.identity() | {"records": len(source)}, COLUMNS)
    return (
        f"{len(records):,} of {counted(len(source), 'training images have')} a similarity of at "
        f"least {similarity:g} to a reference; {len(source) - compared:,} have no embedding. "
        f"To leave the duplicates out: --{key}.exclude_list={output}"
    )


def _whole(results: Results) -> References:
    parts = [(piece.shard, *read_embeddings(piece)) for piece in results.all_pieces()]
    parts = [part for part in parts if len(part[1])] or parts[:1]
    shards, indices, tables = zip(*parts, strict=True)
    ends = np.cumsum([len(numbers) for numbers in indices])
    whole = np.concatenate(indices), np.concatenate(tables)
    return References(results.folder, list(shards), ends, *whole)


def of_source(
    source: Source, results: Results, size: int
) -> Iterator[tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n e"]]]:
    """Yields embeddings and the numbers of their records in the source, up to `size` rows."""
    start = 0
    for shard in source.shards():
        for piece in results.pieces(shard):
            numbers, embeddings = read_embeddings(piece)
            for i in range(0, len(numbers), size):
                yield start + numbers[i : i + size], embeddings[i : i + size]
        start += shard.records


def _near(
    numbers: Int64[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n e"],
    references: References,
    similarity: float,
) -> Iterator[tuple[int, str, str, int, float]]:
    """Yields rows of a list: for a record the most similar one of the set, and 1 - cosine."""
    if not len(references.table):
        return
    cosines = vectors @ references.table.T
    best = cosines.argmax(axis=1)
    for row in np.flatnonzero(cosines.max(axis=1) >= similarity):
        near = best[row]
        shard = references.shards[np.searchsorted(references.ends, near, "right")]
        # The cosine of rounded vectors can be above 1.
        distance = max(0.0, round(1 - float(cosines[row, near]), 6))
        index = int(references.indices[near])
        yield int(numbers[row]), references.folder, shard, index, distance
