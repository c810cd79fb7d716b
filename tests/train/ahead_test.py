"""The step compiled ahead is the one that runs, and `coca plan` tells what it takes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from coca_jax.config import load_config, model_config
from coca_jax.errors import UserError
from coca_jax.planning import parameter_counts, training_flops
from coca_jax.train.ahead import full_mesh

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = f"{ROOT}/configs/shapes.py:smoke"
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed (the plan extra)"
)
CODE = """
import sys
import jax
from coca_jax.config import load_config
from coca_jax.train.ahead import compile_ahead, full_mesh
config = load_config(sys.argv[1], ["--config.mesh.fsdp=2"])
compiled = compile_ahead(config, full_mesh(config, jax.devices()))
print(compiled.input_shardings[0][1]["image"].shard_shape((16, 8, 8, 3)))
"""


def plan(*words):
    # Without what conftest.py sets: the command chooses its platform itself.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return subprocess.run(
        [sys.executable, "-m", "coca_jax", "plan", "--config", CONFIG, *words],
        capture_output=True,
        text=True,
        env=kept,
    )


def test_devices_that_are_here():
    # A process of its own: annotations are not checked there, and shapes stand for arrays.
    done = subprocess.run([sys.executable, "-c", CODE, CONFIG], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 8, 8, 3)"


def test_a_mesh_that_leaves_devices_out_is_refused():
    config = load_config(CONFIG, ["--config.mesh.data=3"])
    config.train.batch_size = 18
    with pytest.raises(UserError, match="takes 3 of the 8 devices"):
        full_mesh(config, list(range(8)))


def test_an_unknown_topology_is_refused():
    done = plan("--topology", "v9:2x2")
    assert done.returncode == 2
    assert "'v9:2x2' is not known" in done.stderr and "v4:8x16x16" in done.stderr


@needs_libtpu
def test_a_pod_that_is_not_here(tmp_path):
    done = plan("--topology", "v5e:2x2", "--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    config = load_config(CONFIG)
    model = model_config(config)
    assert found["chips"] == 4
    assert found["parameters"] == sum(parameter_counts(model).values())
    assert found["flops_per_step"] == config.train.batch_size * training_flops(model)
    held = found["bytes_per_chip"]
    assert 4 * found["parameters"] < held["arguments"] < held["peak"] < held["limit"]
    assert found["step_seconds"] == pytest.approx(found["flops_per_step"] / (4 * 197e12))


@needs_libtpu
def test_what_does_not_fit_says_by_how_much():
    words = ("--config.model.text.vocab_size=100000000",)
    done = plan("--topology", "v5e:2x2", *words)
    assert done.returncode == 2, done.stderr
    assert "does not fit" in done.stderr and "are lacking" in done.stderr
