import numpy as np
import pytest

from coca_jax.data.mixture import PERIOD, Mixture, describe, shares
from coca_jax.errors import UserError

SIZES = {"a": 300_000, "b": 20_000, "c": 5_000}
WEIGHTS = {"a": 5.0, "b": 3.333, "c": 1.667}


@pytest.fixture(scope="module")
def mixture():
    return Mixture(SIZES, WEIGHTS, 0)


@pytest.fixture(scope="module")
def sources(mixture):
    return np.array([mixture[index].source for index in range(3 * PERIOD)])


def test_weights_hold_in_every_window_of_a_thousand(sources):
    for start in range(2 * PERIOD):
        counts = np.bincount(sources[start : start + PERIOD], minlength=3)
        assert counts.tolist() == [500, 333, 167]


@pytest.mark.parametrize("batch, processes", [(4, 2), (64, 2), (64, 4), (96, 4), (250, 2), (8, 8)])
def test_every_process_has_the_same_mixture(sources, batch, processes):
    """Nobody's rows go with the pattern of the mixture."""
    mine = batch // processes
    for process in range(processes):
        batches = range(-(-PERIOD // mine))
        rows = [number * batch + process * mine + row for number in batches for row in range(mine)]
        counts = np.bincount(sources[np.array(rows[:PERIOD]) % PERIOD], minlength=3)
        assert np.abs(counts - [500, 333, 167]).max() <= 0.02 * PERIOD


def test_each_data_set_is_gone_through_in_its_own_order_and_then_in_another():
    sizes = {"a": 30, "b": 7}
    mixture = Mixture(sizes, {"a": 2.0, "b": 2.0}, 1)
    refs = [mixture[index] for index in range(200)]
    for source, size in enumerate(sizes.values()):
        drawn = [ref for ref in refs if ref.source == source]
        orders = []
        for number, begin in enumerate(range(0, len(drawn), size)):
            epoch = drawn[begin : begin + size]
            assert {ref.epoch for ref in epoch} == {number}
            if len(epoch) == size:
                assert sorted(ref.index for ref in epoch) == list(range(size))
                orders.append(tuple(ref.index for ref in epoch))
        assert len(set(orders)) == len(orders) >= 3


def test_a_lone_data_set_is_all_of_the_mixture():
    mixture = Mixture({"": 20_000}, {"": 0.0}, 0)
    refs = [mixture[index] for index in (*range(50), 20_000)]
    assert {ref.source for ref in refs} == {0}
    assert len({ref.index for ref in refs[:50]}) == 50 and refs[-1].epoch == 1


def test_a_new_data_set_does_not_change_the_order_of_the_others():
    two = Mixture({"a": 5000, "b": 5000}, {"a": 1.0, "b": 1.0}, 0)
    three = Mixture({"a": 5000, "b": 5000, "c": 5000}, {"a": 1.0, "b": 1.0, "c": 1.0}, 0)

    def order(mixture, source):
        refs = (mixture[index] for index in range(300))
        return [ref.index for ref in refs if ref.source == source][:80]

    assert order(two, 0) == order(three, 0) and order(two, 1) == order(three, 1)
    assert order(two, 0) != order(two, 1)


def test_without_weights_sizes_count():
    assert shares({"a": 600, "b": 300, "c": 100}, {"a": 0.0, "b": 0.0, "c": 0.0}) == [600, 300, 100]
    assert describe({"a": 600, "b": 400}, {"a": 1.0, "b": 1.0}) == {
        "a": {"share": 0.5, "passes": pytest.approx(500 / 600)},
        "b": {"share": 0.5, "passes": pytest.approx(500 / 400)},
    }


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 4.0), (7.0, 11.0, 13.0)])
def test_shares_sum_to_the_period_and_are_the_nearest(weights):
    found = shares(dict.fromkeys("abc", 10), dict(zip("abc", weights, strict=True)))
    assert sum(found) == PERIOD
    exact = np.array(weights) / sum(weights) * PERIOD
    assert np.abs(np.array(found) - exact).max() < 1


def test_errors_name_the_data_set():
    with pytest.raises(UserError, match=r"data set 'b' would be 0\.0001 of the mixture"):
        shares({"a": 10, "b": 10}, {"a": 9999.0, "b": 1.0})
    with pytest.raises(UserError, match="data set 'b' has no records"):
        Mixture({"a": 3, "b": 0}, {"a": 1.0, "b": 1.0}, 0)
    with pytest.raises(UserError, match="weight of data set 'b' is 0"):
        Mixture({"a": 3, "b": 3}, {"a": 1.0, "b": 0.0}, 0)
    with pytest.raises(UserError, match="weight of data set 'a' is inf"):
        shares({"a": 3, "b": 3}, {"a": float("inf"), "b": 1.0})
    with pytest.raises(UserError, match="weight of data set 'a' is -1"):
        Mixture({"a": 3, "b": 3}, {"a": -1.0, "b": 1.0}, 0)
