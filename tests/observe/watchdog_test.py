"""The watchdog reports a stuck step, once, and nothing that may take long."""

import subprocess
import sys
import time

import pytest

from coca_jax.observe.watchdog import Watchdog


def wait_for(path, text, seconds=10):
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.02)


def stuck_here(path):
    wait_for(path, "stuck_here")


def test_a_stuck_step_is_reported_once_with_the_stacks_of_all_threads(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as out, Watchdog(3.0, 0.1, out=out) as watchdog:
        for _ in range(5):
            watchdog.beat()
        stuck_here(path)
        time.sleep(0.2)
    text = path.read_text()
    assert text.count("this step has taken") == text.count("Timeout (") == 1
    assert "a typical one takes" in text and "config.watchdog.end" not in text
    assert "in _explain" in text and text.index("this step has taken") < text.index("Timeout (")


def test_it_is_quiet_while_paused_or_off_or_closed(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as out:
        with Watchdog(3.0, 0.05, out=out) as watchdog, watchdog.paused():
            time.sleep(0.2)
        with Watchdog(0.0, 0.05, out=out):
            time.sleep(0.2)
    assert path.read_text() == ""


def test_the_limit_follows_the_history():
    watchdog = Watchdog(10.0, 0.0)
    watchdog._intervals.extend([2.0, 3.0, 50.0])
    assert watchdog.limit == 30.0


def test_a_limit_of_centuries_can_be_set(tmp_path):
    with (tmp_path / "out").open("w") as out, Watchdog(1e9, 1e9, out=out) as watchdog:
        watchdog._intervals.extend([100.0] * 3)
        watchdog.beat()


@pytest.mark.parametrize(
    ("stuck", "explained"),
    [
        ("time.sleep(60)", True),
        ("ctypes.PyDLL(None).sleep(60)", False),  # holds the interpreter's lock
    ],
)
def test_it_ends_the_process_if_asked(stuck, explained):
    code = f"""
import ctypes, time
from coca_jax.observe.watchdog import Watchdog
with Watchdog(2.0, 0.1, end=True):
    {stuck}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert ("config.watchdog.end is set: the process ends" in done.stderr) is explained
    assert 'File "<string>", line 5 in <module>' in done.stderr
