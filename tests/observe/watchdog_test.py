"""The watchdog barks at a stuck step, once, and not at what may take long."""

import subprocess
import sys
import time

from coca_jax.observe.watchdog import Watchdog


def wait_for(path, text, seconds=10):
    end = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.02)


def stuck_here(path):
    wait_for(path, "stuck_here")


def test_a_stuck_step_shows_where_threads_stand(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as out, Watchdog(3.0, 0.1, out=out) as watchdog:
        for _ in range(5):
            watchdog.beat()
        stuck_here(path)
        time.sleep(0.3)
    text = path.read_text()
    assert text.count("the step under way") == 1
    assert "watchdog_test.py" in text


def test_it_is_quiet_while_paused_or_off(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as out:
        with Watchdog(3.0, 0.05, out=out) as watchdog, watchdog.paused():
            time.sleep(0.3)
        with Watchdog(0.0, 0.05, out=out) as watchdog:
            time.sleep(0.3)
    assert path.read_text() == ""


def test_the_limit_follows_the_history():
    with Watchdog(10.0, 0.0) as watchdog:
        watchdog._intervals.extend([2.0, 3.0, 50.0])
        assert watchdog.limit == 30.0


def test_it_ends_the_process_if_asked():
    code = """
import time
from coca_jax.observe.watchdog import Watchdog
with Watchdog(2.0, 0.1, end=True):
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "ending the process" in done.stderr and "in _watch" in done.stderr
