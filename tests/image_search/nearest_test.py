import sys

import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.image_search import nearest
from coca_jax.image_search.nearest import ExactSearch, FaissSearch, forget


def make_rows(count, seed, width=16, clusters=40):
    """Clusters of unit vectors; the centers are the same for every seed."""
    centers = np.random.default_rng(7).standard_normal((clusters, width), np.float32)
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(clusters, size=count)]
    rows = rows + 0.5 * rng.standard_normal((count, width), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(stored, live, query, top):
    """Row numbers by float64, with a full sort."""
    scores = stored[live].astype(np.float64) @ query.astype(np.float64)
    return live[np.argsort(-scores, kind="stable")[:top]]


def recall(search, stored, live, queries, top=10):
    results = [search(query, top)[1] for query in queries]
    true = [reference(stored, live, query, top) for query in queries]
    return np.mean([len(set(f) & set(t)) / top for f, t in zip(results, true, strict=True)])


@pytest.fixture
def faiss(monkeypatch):
    """FAISS; 500 rows are enough for lists."""
    monkeypatch.setattr(nearest, "FEWEST", 500)
    monkeypatch.setattr(nearest, "BLOCK", 300)
    return pytest.importorskip("faiss")


@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_few_rows_are_searched_exactly(tmp_path, kind):
    if kind == "faiss":
        pytest.importorskip("faiss")
    stored, live = make_rows(300, 0), np.arange(0, 300, 3)
    search = nearest.SEARCHES[kind](tmp_path / "t.f32", stored, live)
    for query in make_rows(5, 1):
        for top in (1, 10, 100, 1000):
            scores, rows = search(query, top)
            np.testing.assert_array_equal(rows, reference(stored, live, query, top))
            np.testing.assert_allclose(scores, stored[rows] @ query, atol=1e-6)
    empty = nearest.SEARCHES[kind](tmp_path / "t.f32", stored, live[:0])
    assert [len(x) for x in empty(stored[0], 3)] == [0, 0]


def test_equal_rows_come_in_order(tmp_path):
    stored = np.tile(np.float32([[1, 0], [0, 1]]), (4, 1))
    scores, rows = ExactSearch(tmp_path / "t.f32", stored, np.arange(8))(np.float32([0, 1]), 3)
    assert rows.tolist() == [1, 3, 5] and scores.tolist() == [1, 1, 1]


def test_recall_by_lists(faiss, tmp_path):
    stored, live = make_rows(4000, 0), np.arange(4000)
    search = FaissSearch(tmp_path / "t.f32", stored, live)
    index = faiss.read_index(str(next(tmp_path.iterdir())))
    assert index.nlist == 256  # a power of two, from 4 sqrt(4000) on
    assert recall(search, stored, live, make_rows(50, 1)) > 0.95
    assert len(set(search(stored[0], 4000)[1])) == 4000  # more than its eighth of the lists have


def test_rows_come_and_go_without_new_centers(faiss, tmp_path, monkeypatch):
    stored, queries = make_rows(1600, 0), make_rows(50, 1)
    FaissSearch(tmp_path / "t.f32", stored[:1200], np.arange(1200))
    monkeypatch.setattr(FaissSearch, "_trained", None)
    live = np.setdiff1d(np.arange(1600), np.arange(0, 1600, 4))
    search = FaissSearch(tmp_path / "t.f32", stored, live)
    assert set(search(queries[0], 1600)[1]) == set(live)
    assert recall(search, stored, live, queries) > 0.95
    [path] = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    FaissSearch(tmp_path / "t.f32", stored, live)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("count", [300, 8000])
def test_other_sizes_have_other_lists(faiss, tmp_path, count):
    stored = make_rows(8000, 0)
    FaissSearch(tmp_path / "t.f32", stored, np.arange(1200))
    live = np.arange(count)
    search = FaissSearch(tmp_path / "t.f32", stored, live)
    index = faiss.read_index(str(next(tmp_path.iterdir())))
    assert index.nlist == {300: 1, 8000: 512}[count] and index.ntotal == count
    assert recall(search, stored, live, make_rows(20, 1)) > 0.95


def test_damaged_files_and_those_of_other_rows(faiss, tmp_path):
    stored, live = make_rows(600, 0), np.arange(600)
    FaissSearch(tmp_path / "t.f32", stored, live)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert set(FaissSearch(tmp_path / "t.f32", stored, live)(stored[0], 600)[1]) == set(range(600))
    for width in (16, 24):  # the same row numbers of other tables, whose files are still there
        other = make_rows(600, width, width)
        search = FaissSearch(tmp_path / f"{width}.f32", other, live)
        assert search(other[5], 1)[0] == pytest.approx(1) and search(other[5], 1)[1] == 5
        FaissSearch(tmp_path / "t.f32", stored, live)
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install coca_jax\[search\]"):
        FaissSearch(tmp_path / "t.f32", make_rows(10, 0), np.arange(10))
