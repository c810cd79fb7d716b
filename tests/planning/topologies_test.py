"""Pods that are not here. In a process of its own: libtpu's environment goes before JAX."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from coca_jax.cli.options import require_compiler
from coca_jax.errors import UserError
from coca_jax.planning import cuda
from coca_jax.planning.topologies import find_topology

CODE = """
import json, sys
from coca_jax.planning.chips import GENERATIONS
from coca_jax.planning.topologies import find_topology, prepare_environment
prepare_environment()
from coca_jax.distributed.mesh import make_mesh
for name, generation in GENERATIONS.items():
    topology = find_topology(f"{name}:{generation.example}")
    mesh = make_mesh({"data": -1, "fsdp": 8, "tensor": 1}, topology.devices)
    kinds = {d.device_kind for d in mesh.devices.flat}
    print(json.dumps([name, topology.chips, topology.sides, mesh.size, sorted(kinds)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed (the plan extra)"
)
def test_every_generation_can_be_laid_out_as_a_mesh():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == [
        ["v4", 2048, [8, 16, 16], 2048, ["TPU v4"]],
        ["v5e", 256, [16, 16, 1], 256, ["TPU v5 lite"]],
        ["v5p", 1024, [8, 8, 16], 1024, ["TPU v5"]],
        ["v6e", 256, [16, 16, 1], 256, ["TPU v6 lite"]],
        ["tpu7x", 64, [4, 4, 4], 128, ["TPU7x"]],
    ]
    assert done.stderr == ""


def test_plans_need_no_platform_that_the_environment_asks_for():
    code = """
from coca_jax.planning.topologies import find_topology, prepare_environment
prepare_environment()
assert find_topology("h100:1x2").chips == 2
"""
    environment = os.environ | {"JAX_PLATFORMS": "nonsense"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_gpus_for_which_a_plugin_does_not_compile_are_planned_by_estimates(monkeypatch):
    def devices(*_):
        raise UserError("jax-cuda12-plugin is installed")

    monkeypatch.setattr(cuda, "is_installed", lambda: True)
    monkeypatch.setattr(cuda, "devices", devices)
    monkeypatch.setattr(jax, "devices", lambda: [object()] * 16)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    cluster = find_topology("h100:2x8")
    assert not cluster.compiles and cluster.chips == 16
    options = argparse.Namespace(hlo=None, search=False, kernels=30)
    with pytest.raises(UserError, match="--kernels: jax-cuda12-plugin is installed"):
        require_compiler(options, cluster)


def test_slices_of_machines_with_gpus_are_refused_by_name():
    with pytest.raises(UserError, match=r"--slices 2 is for TPUs: topology 'h100:4x8'"):
        find_topology("h100:4x8", slices=2)
