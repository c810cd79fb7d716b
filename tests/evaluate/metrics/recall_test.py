import numpy as np
import pytest

from coca_jax.evaluate.metrics.recall import best_ranks, recalls
from coca_jax.evaluate.metrics.undefined import reasons


def brute_force_ranks(queries, items, pairs):
    """Sorts each query's items, wrong before right among equals, and looks for the first right."""
    ranks = []
    for q, query in enumerate(queries):
        right = {int(i) for row, i in pairs if row == q}
        scored = sorted((-float(np.dot(query, item)), i in right) for i, item in enumerate(items))
        ranks.append(next((r for r, (_, is_right) in enumerate(scored) if is_right), len(items)))
    return ranks


@pytest.mark.parametrize("scores_in_memory", [1, 40, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_match_brute_force_whatever_the_block(seed, scores_in_memory):
    rng = np.random.default_rng(seed)
    # Small whole numbers: exact in any order of summation, and with many ties.
    queries = rng.integers(-2, 3, (17, 3)).astype(np.float32)
    items = rng.integers(-2, 3, (11, 3)).astype(np.float32)
    pairs = rng.permutation(np.argwhere(rng.random((17, 11)) < 0.15))
    assert len(np.unique(pairs[:, 0])) < 17  # some query has no right item
    ranks = best_ranks(queries, items, pairs, scores_in_memory)
    assert ranks.tolist() == brute_force_ranks(queries, items, pairs)


def test_recalls_by_hand():
    queries = np.eye(3, 12, dtype=np.float32)
    items = np.zeros((12, 12), np.float32)
    items[:, 0] = np.arange(12, 0, -1)  # query 0 ranks the items 0, 1, 2, ...
    items[:, 1] = np.arange(12)  # query 1 ranks them 11, 10, 9, ...
    pairs = np.array([[0, 0], [0, 5], [1, 4], [1, 0]])  # ranks 0 and 7; query 2 does not count
    assert recalls(queries, items, pairs) == {
        "r1": 0.5,
        "r5": 0.5,
        "r10": 1.0,
        "chance_r1": pytest.approx(2 / 12),
    }


def test_a_model_that_maps_everything_to_a_point_finds_nothing():
    same = np.ones((20, 4), np.float32)
    pairs = np.stack([np.arange(20), np.arange(20)], axis=1)
    assert recalls(same, same, pairs)["r10"] == 0


def test_a_model_that_gives_nan_finds_nothing():
    points = np.eye(12, dtype=np.float32)
    pairs = np.stack([np.arange(12)] * 2, axis=1)
    nowhere = np.full_like(points, np.nan)
    assert recalls(points, points, pairs)["r1"] == 1
    assert recalls(nowhere, points, pairs)["r10"] == 0
    points[3] = np.nan  # among the items, and so is never known to be worse
    assert recalls(np.eye(12, dtype=np.float32), points, pairs)["r1"] == 0


def test_without_a_right_item_recall_is_undefined():
    found = recalls(np.eye(2), np.eye(2), np.zeros((0, 2), np.int64))
    assert set(reasons(found)) == {"r1", "r5", "r10", "chance_r1"}
