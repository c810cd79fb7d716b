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
def parts(mixture):
    return np.array([mixture[place].part for place in range(3 * PERIOD)])


def test_weights_hold_in_every_window_of_a_thousand(parts):
    for start in range(2 * PERIOD):
        counts = np.bincount(parts[start : start + PERIOD], minlength=3)
        assert counts.tolist() == [500, 333, 167]


@pytest.mark.parametrize("batch, processes", [(4, 2), (64, 2), (64, 4), (96, 4), (250, 2), (8, 8)])
def test_every_process_has_the_same_mixture(parts, batch, processes):
    """Nobody's rows go with the pattern of the mixture."""
    mine = batch // processes
    for process in range(processes):
        batches = range(-(-PERIOD // mine))
        rows = [number * batch + process * mine + row for number in batches for row in range(mine)]
        counts = np.bincount(parts[np.array(rows[:PERIOD]) % PERIOD], minlength=3)
        assert np.abs(counts - [500, 333, 167]).max() <= 0.02 * PERIOD


def test_each_part_is_gone_through_in_its_own_order_and_then_in_another():
    sizes = {"a": 30, "b": 7}
    mixture = Mixture(sizes, {"a": 2.0, "b": 2.0}, 1)
    picks = [mixture[place] for place in range(200)]
    for part, size in enumerate(sizes.values()):
        drawn = [pick for pick in picks if pick.part == part]
        visits = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        orders = []
        for number, visit in enumerate(visits):
            assert {pick.visit for pick in visit} == {number}
            if len(visit) == size:
                assert sorted(pick.index for pick in visit) == list(range(size))
                orders.append(tuple(pick.index for pick in visit))
        assert len(set(orders)) == len(orders) >= 3


def test_a_lone_part_is_all_of_the_mixture():
    mixture = Mixture({"": 20_000}, {"": 0.0}, 0)
    picks = [mixture[place] for place in (*range(50), 20_000)]
    assert {pick.part for pick in picks} == {0}
    assert len({pick.index for pick in picks[:50]}) == 50 and picks[-1].visit == 1


def test_a_new_part_does_not_change_the_order_of_the_others():
    two = Mixture({"a": 5000, "b": 5000}, {"a": 1.0, "b": 1.0}, 0)
    three = Mixture({"a": 5000, "b": 5000, "c": 5000}, {"a": 1.0, "b": 1.0, "c": 1.0}, 0)

    def order(mixture, part):
        picks = (mixture[place] for place in range(300))
        return [pick.index for pick in picks if pick.part == part][:80]

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


def test_mistakes_are_named():
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
