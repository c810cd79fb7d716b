import threading
import time

import pytest

from coca_jax.serve.batching import Batcher


class Model:
    """Doubles numbers, and holds batches back while `ready` is not set."""

    def __init__(self):
        self.batches, self.ready = [], threading.Event()

    def __call__(self, key, rows):
        assert self.ready.wait(10)
        self.batches.append((key, rows))
        return [2 * row for row in rows]


@pytest.fixture
def model():
    return Model()


def started(model, **options):
    """A batcher whose model is busy with a first batch, and that batch's future."""
    batcher = Batcher(model, **options)
    first = batcher.submit("first", [0, 0, 0, 0, 0, 0, 0, 0])  # full
    while batcher.waiting():
        time.sleep(0.001)
    return batcher, first


def test_rows_of_equal_keys_that_came_meanwhile_are_one_batch(model):
    batcher, first = started(model, max_batch=4, max_latency=60.0)
    a = [batcher.submit("a", rows) for rows in ([1], [3, 4], [5])]
    b = batcher.submit("b", [2])
    assert batcher.waiting() == 5
    model.ready.set()
    # The group that is full need not wait; the other one waits for others until the end.
    assert [future.result(10) for future in a] == [[2], [6, 8], [10]]
    assert not b.done()
    batcher.close()
    assert first.result(0) == [0] * 8 and b.result(0) == [4]
    assert model.batches[1:] == [("a", [1, 3, 4, 5]), ("b", [2])]


def test_jobs_are_never_divided_and_large_ones_run_alone(model):
    batcher, _ = started(model, max_batch=4, max_latency=0.0)
    jobs = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11], [12]]
    for rows in jobs:
        batcher.submit("a", rows)
    model.ready.set()
    batcher.close()
    assert [rows for _, rows in model.batches[1:]] == jobs


def test_a_lone_job_waits_for_the_latency_and_a_full_batch_not_at_all(model):
    model.ready.set()
    batcher = Batcher(model, max_batch=2, max_latency=0.5)
    begin = time.monotonic()
    batcher.submit("a", [1, 2]).result(10)
    assert time.monotonic() - begin < 0.5
    batcher.submit("a", [1]).result(10)
    assert time.monotonic() - begin >= 0.5
    batcher.close()


def test_the_oldest_group_goes_first_though_others_are_full(model):
    batcher, _ = started(model, max_batch=2, max_latency=0.01)
    batcher.submit("rare", [1])
    for _ in range(3):
        batcher.submit("common", [2, 3])
    time.sleep(0.02)
    model.ready.set()
    batcher.close()
    assert [key for key, _ in model.batches] == ["first", "rare", *["common"] * 3]


def test_only_the_bad_job_of_a_batch_fails(model):
    batcher, _ = started(model, max_batch=8)
    good, bad, other = (batcher.submit("a", rows) for rows in ([1], [2, None], [3]))
    model.ready.set()
    batcher.close()
    assert good.result(0) == [2] and other.result(0) == [6]
    with pytest.raises(TypeError):
        bad.result(0)


def test_a_cancelled_job_is_left_out(model):
    batcher, _ = started(model)
    gone, stays = batcher.submit("a", [1]), batcher.submit("a", [2])
    assert gone.cancel()
    model.ready.set()
    batcher.close()
    assert stays.result(0) == [4] and model.batches[1] == ("a", [2])


def test_closed_it_takes_nothing(model):
    model.ready.set()
    batcher = Batcher(model)
    batcher.close()
    with pytest.raises(RuntimeError):
        batcher.submit("a", [1])


def test_no_rows_have_no_results_and_too_few_results_are_an_error(model):
    model.ready.set()
    batcher = Batcher(lambda key, rows: model(key, rows)[: None if key == "all" else 1])
    assert batcher.submit("all", []).result(10) == []
    with pytest.raises(RuntimeError, match="1 results of 2 rows"):
        batcher.submit("one", [1, 2]).result(10)
    assert batcher.submit("all", [1, 2]).result(10) == [2, 4]  # the thread goes on
    assert batcher.is_alive()
    batcher.close()
    assert not batcher.is_alive()
