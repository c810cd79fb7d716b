"""Recall at k of searches, in blocks: the scores of all queries never exist at once."""

import numpy as np
import tqdm
from jaxtyping import Float, Int

from coca_jax.evaluate.metrics.undefined import Undefined

CUTOFFS = (1, 5, 10)
SCORES_IN_MEMORY = 2**24


def recalls(
    queries: Float[np.ndarray, "n e"],
    items: Float[np.ndarray, "m e"],
    pairs: Int[np.ndarray, "p 2"],
) -> dict[str, float]:
    """Returns recall at 1, 5 and 10, and the recall at 1 of random order, as `chance_r1`.

    The means are over the queries that have a right item; without any they are undefined.
    """
    if not len(pairs):
        names = [*(f"r{k}" for k in CUTOFFS), "chance_r1"]
        return dict.fromkeys(names, Undefined("no query has a right item"))
    positives = np.bincount(pairs[:, 0], minlength=len(queries))
    ranks = best_ranks(queries, items, pairs)[positives > 0]
    metrics = {f"r{k}": float((ranks < k).mean()) for k in CUTOFFS}
    chance = positives[positives > 0].mean() / len(items)
    return metrics | {"chance_r1": float(chance)}


def best_ranks(
    queries: Float[np.ndarray, "n e"],
    items: Float[np.ndarray, "m e"],
    pairs: Int[np.ndarray, "p 2"],
    scores_in_memory: int = SCORES_IN_MEMORY,
) -> Int[np.ndarray, " n"]:
    """Returns, for each query, how many wrong items do not score lower than its best right one.

    So a tie counts against the model, and one that maps everything to a point, or to NaN, finds
    nothing. A query without a right item gets rank m. The n x m scores never exist at once.

    Args:
      queries: embeddings to search with.
      items: embeddings to search among.
      pairs: (query, item) for each right item of each query, in any order.
      scores_in_memory: the most scores to hold at a time (at least one row of m is).
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    rows = max(1, scores_in_memory // len(items))
    ranks = np.empty(len(queries), np.int64)
    starts = range(0, len(queries), rows)
    for start in tqdm.tqdm(starts, desc="ranking", unit="block", disable=None, leave=False):
        block = queries[start : start + rows]
        first, last = np.searchsorted(pairs[:, 0], [start, start + len(block)])
        right = pairs[first:last] - [start, 0]
        ranks[start : start + rows] = _block_ranks(block @ items.T, right)
    return ranks


def _block_ranks(
    scores: Float[np.ndarray, "r m"], right: Int[np.ndarray, "p 2"]
) -> Int[np.ndarray, " r"]:
    of_right = scores[right[:, 0], right[:, 1]]
    best = np.full(len(scores), -np.inf, scores.dtype)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        np.maximum.at(best, right[:, 0], of_right)
    ranks = (~(scores < best[:, None])).sum(axis=1)
    np.subtract.at(ranks, right[:, 0], ~(of_right < best[right[:, 0]]))  # they are not wrong
    return ranks
