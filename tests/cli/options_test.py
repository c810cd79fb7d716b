import argparse

import pytest

from coca_jax.cli import options

ARRAY = {"ID": "14", "MIN": "10", "MAX": "18", "STEP": "2", "COUNT": "5"}


def test_the_place_in_a_job_array(monkeypatch):
    for name, value in ARRAY.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert options.task("array") == (3, 5)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")  # as for --array=10,18
    with pytest.raises(argparse.ArgumentTypeError, match="not evenly spaced"):
        options.task("array")
    monkeypatch.delenv("SLURM_ARRAY_TASK_MIN")
    with pytest.raises(argparse.ArgumentTypeError, match="SLURM_ARRAY_TASK_MIN is not set"):
        options.task("array")


def test_a_part_of_results_is_one_of_those_there_are():
    assert options.task("2/8") == (2, 8)
    for text in ("0/8", "9/8", "1/0", "2", "a/b"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            options.task(text)


def test_a_step_is_a_number_or_the_best():
    assert options.step("100") == 100 and options.step("best") == "best"
    for text in ("newest", "-1", "1.5", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="should be a step, or best"):
            options.step(text)
