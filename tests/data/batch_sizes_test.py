import collections
import itertools

import pytest

from coca_jax.data.batch_sizes import BatchSizes

SEVERAL = BatchSizes(8, (256, 64, 100, 64), seed=3)


def test_of_one_size_all_steps_are_alike():
    sizes = BatchSizes(8)
    assert [sizes.size(n) for n in range(3)] == [8] * 3 and sizes.length(5) is None
    assert sizes.examples_seen(7) == 56
    assert [sizes.steps(n) for n in (0, 1, 8, 9)] == [0, 1, 1, 2]


def test_every_cycle_has_each_length_once_in_an_order_of_its_own():
    cycles = [tuple(SEVERAL.length(4 * n + i) for i in range(4)) for n in range(20)]
    assert {tuple(sorted(cycle)) for cycle in cycles} == {(64, 64, 100, 256)}
    assert len(set(cycles)) > 5
    assert cycles != [
        tuple(BatchSizes(8, SEVERAL.lengths, 4).length(4 * n + i) for i in range(4))
        for n in range(20)
    ]


def test_tokens_are_about_as_many_in_each_step():
    sizes = {SEVERAL.length(n): SEVERAL.size(n) for n in range(4)}
    assert sizes == {256: 8, 100: 16, 64: 32}


@pytest.mark.parametrize("sizes", [BatchSizes(8), BatchSizes(3, (7,)), SEVERAL])
def test_examples_seen_are_the_sum_of_the_steps(sizes):
    sums = [0, *itertools.accumulate(sizes.size(n) for n in range(30))]
    assert [sizes.examples_seen(n) for n in range(31)] == sums
    by_length = collections.Counter()
    for n in range(31):
        assert sizes.examples_seen_by_length(n) == {
            k: by_length[k] for k in sizes.lengths or [None]
        }
        by_length[sizes.length(n)] += sizes.size(n)
    for examples in range(sums[20] + 1):
        steps = sizes.steps(examples)
        assert sums[steps] >= examples and (steps == 0 or sums[steps - 1] < examples)
