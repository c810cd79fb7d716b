"""Where compiled programs are kept, and that a second process finds them there."""

import pathlib
import subprocess
import sys

import pytest

from coca_jax.train.compile_cache import cache_folder

PROGRAM = """
import pathlib, sys
import jax
from coca_jax.train.compile_cache import use_compile_cache
jax.config.update("jax_num_cpu_devices", int(sys.argv[3]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
use_compile_cache(sys.argv[1], pathlib.Path(sys.argv[2]) / "run")
jax.jit(lambda x: x @ x + 41)(jax.numpy.ones((8, 8))).block_until_ready()
print(any("cache_hit" in event for event in hits))
"""


def test_auto_is_beside_the_workdir_where_programs_can_be_loaded():
    workdir = pathlib.Path("/data/runs/base")
    assert cache_folder("auto", workdir, "gpu", 8) == "/data/runs/.compile_cache"
    assert cache_folder("auto", workdir, "cpu", 1) == "/data/runs/.compile_cache"
    assert cache_folder("auto", workdir, "cpu", 2) == ""
    assert cache_folder("", workdir, "tpu", 4) == ""
    assert cache_folder("/fast", workdir, "cpu", 2) == "/fast"


@pytest.mark.parametrize(
    ("setting", "devices", "second"), [("auto", 1, "True"), ("auto", 2, "False"), ("", 1, "False")]
)
def test_a_second_process_finds_what_the_first_compiled(tmp_path, setting, devices, second):
    command = [sys.executable, "-c", PROGRAM, setting, str(tmp_path), str(devices)]
    found = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [done.stdout.strip() for done in found] == ["False", second]
