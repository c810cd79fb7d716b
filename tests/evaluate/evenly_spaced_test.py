import numpy as np
import pytest

from coca_jax.evaluate.evenly_spaced import EvenlySpaced


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 9, 23, 100])
def test_a_few_of_a_stream_are_evenly_spaced(length):
    spaced = EvenlySpaced(4)
    for i in range(length):
        spaced.offer(lambda i=i: i)
        assert len(spaced._kept) < 8
    chosen = spaced.chosen()
    assert len(chosen) == min(4, length)
    steps = np.diff([*chosen, length])
    assert chosen[0] == 0 and steps.max() <= 2 * steps[:-1].min(initial=length)


def test_what_is_not_kept_is_not_made():
    spaced, made = EvenlySpaced(4), []
    for i in range(1000):
        spaced.offer(lambda i=i: made.append(i))
    assert len(made) < 50
