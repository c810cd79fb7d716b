"""A process of its own, since `run` ends it."""

import subprocess
import sys

CODE = """
import sys, threading
import coca_jax.cli as cli
cli.GRACE_SECONDS = 0.5
threading.Thread(target=threading.Event().wait).start()  # as libraries leave behind
sys.argv = ["coca", "report", "--workdir", sys.argv[1]]
sys.exit(cli.run())
"""


def test_an_error_ends_the_process_whatever_its_threads_wait_for(tmp_path):
    call = [sys.executable, "-c", CODE, str(tmp_path / "none")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "coca report: " in done.stderr
