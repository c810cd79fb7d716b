"""Where compiled programs are kept, and that a second process finds them there."""

import pathlib
import subprocess
import sys

from coca_jax.train.compile_cache import cache_folder

PROGRAM = """
import pathlib, sys
import jax
from coca_jax.train.compile_cache import use_compile_cache
jax.config.update("jax_num_cpu_devices", 1)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
use_compile_cache(sys.argv[1], pathlib.Path("runs/a"))
jax.jit(lambda x: x @ x + 41)(jax.numpy.ones((8, 8))).block_until_ready()
print(any("cache_hit" in event for event in hits))
"""


def test_auto_is_beside_the_workdir_on_accelerators_only():
    workdir = pathlib.Path("/data/runs/base")
    assert cache_folder("auto", workdir, "gpu") == "/data/runs/.compile_cache"
    assert cache_folder("auto", workdir, "cpu") == ""
    assert cache_folder("", workdir, "tpu") == ""
    assert cache_folder("/fast", workdir, "cpu") == "/fast"


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    found = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [done.stdout.strip() for done in found] == ["False", "True"]
