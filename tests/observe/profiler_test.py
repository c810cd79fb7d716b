import subprocess
import sys

import pytest

from coca_jax.observe import profiler


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(profiler.jax.profiler, "start_trace", lambda path: made.append("start"))
    monkeypatch.setattr(profiler.jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


def run(window, steps, calls):
    for step in steps:
        calls.append(step)
        window.step(step)
    window.close()
    return calls


def test_the_window(tmp_path, calls):
    made = run(profiler.Profiler(tmp_path, start=3, steps=2), range(1, 7), calls)
    assert made == [1, 2, 3, "start", 4, 5, "stop", 6]


def test_the_runs_end_closes_the_trace(tmp_path, calls):
    made = run(profiler.Profiler(tmp_path, start=3, steps=9), range(2, 5), calls)
    assert made == [2, 3, "start", 4, "stop"]


def test_no_steps_no_profile(tmp_path, calls):
    assert run(profiler.Profiler(tmp_path, start=0, steps=0), range(3), calls) == [0, 1, 2]


def test_a_real_trace_is_written(tmp_path):
    # In a process of its own: tracing has crashed one that had done much else.
    steps = f"""
import pathlib
from coca_jax.observe.profiler import Profiler
window = Profiler(pathlib.Path({str(tmp_path)!r}), start=0, steps=1)
window.step(0)
window.step(1)
"""
    subprocess.run([sys.executable, "-c", steps], check=True, timeout=300)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
