import subprocess
import sys

import pytest

# Each starts a child that would wait for ten minutes, and says when the child runs.
WORKER = """
import multiprocessing, os, sys, time
from coca_jax.io.parent import end_with_parent

def work(ready):
    end_with_parent()
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    context.Process(target=work, args=(ready,)).start()
    ready.wait()
    print("busy", flush=True)
    time.sleep(600)
"""
PROGRAM = """
import subprocess, sys, time
from coca_jax.io.parent import kill_with_parent

child = "import time; print('busy', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], preexec_fn=kill_with_parent)
time.sleep(600)
"""


@pytest.mark.parametrize("code", [WORKER, PROGRAM])
def test_children_end_with_a_parent_that_is_killed(code):
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"busy\n"
    parent.kill()
    assert parent.communicate(timeout=20) == (b"", None)  # nobody holds the other end any more
