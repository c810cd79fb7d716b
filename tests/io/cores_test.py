import os

import pytest

from coca_jax.io.cores import available_cores


@pytest.mark.parametrize("cores", [{0}, {1, 5, 6}])
def test_only_the_cores_of_this_process_count(monkeypatch, cores):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    assert available_cores() == len(cores)


def test_all_cores_count_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for known, count in ((64, 64), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert available_cores() == count
