"""The step compiled ahead is the one that runs, and `coca plan` tells what it takes."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from coca_jax.config import load_config, model_config
from coca_jax.errors import UserError
from coca_jax.planning import parameter_counts, training_flops
from coca_jax.planning.aot import full_mesh

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = f"{ROOT}/configs/shapes.py:smoke"
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed (the plan extra)"
)
CODE = """
import sys
import jax
from coca_jax.config import load_config
from coca_jax.planning.aot import compile_ahead, full_mesh
config = load_config(sys.argv[1], ["--config.mesh.fsdp=2"])
compiled, step = compile_ahead(config, full_mesh(config, jax.devices()))
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
@pytest.mark.slow
def test_a_pod_that_is_not_here(tmp_path):
    words = ("--json", str(tmp_path / "plan.json"), "--plot", str(tmp_path / "memory.png"))
    done = plan("--topology", "v5e:2x2", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    config = load_config(CONFIG)
    model = model_config(config)
    assert found["chips"] == 4
    assert found["parameters"] == sum(parameter_counts(model).values())
    assert found["flops_per_step"] == config.train.batch_size * training_flops(model)
    held = found["bytes_per_chip"]
    assert 4 * found["parameters"] < held["arguments"] < held["peak"] < held["limit"]
    assert found["hardware_flops_per_step"] >= found["flops_per_step"]
    terms = found["seconds_by_term"]
    assert terms["matrix"] == pytest.approx(found["hardware_flops_per_step"] / (4 * 197e12))
    assert found["step_seconds"] == max(terms.values()) < found["step_seconds_without_overlap"]
    exchanged = {row["kind"]: row["bytes"] for row in found["collectives"]}
    # Parameters are replicated, so that the gradient of each is added up once, at 2 bytes or 4.
    gradients = exchanged.get("all-reduce", 0) + exchanged.get("reduce-scatter", 0)
    assert 2 * found["parameters"] < gradients < 6 * found["parameters"]
    parts = found["bytes_by_part"]
    assert sum(parts.values()) == pytest.approx(held["peak"])
    assert parts["parameters"] == 4 * found["parameters"]
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


@needs_libtpu
@pytest.mark.slow
def test_slices_that_are_not_here(tmp_path):
    words = ("--slices", "2", "--config.mesh.fsdp=4", "--json", str(tmp_path / "plan.json"))
    done = plan("--topology", "v5e:2x2", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["chips"] == 8 and found["slices"] == 2
    sent = {row["kind"]: row for row in found["collectives"]}["send"]
    # Each chip has a quarter of the gradients to exchange with the other slice.
    assert sent["devices"] == 2 and sent["bytes"] > 2 * found["parameters"] / 4
    assert found["seconds_by_term"]["between_slices"] == pytest.approx(sent["bytes"] / 3.125e9)
    assert "2 slices" in done.stdout


@needs_libtpu
@pytest.mark.slow
def test_the_mesh_keeps_to_slices():
    done = plan("--topology", "v5e:2x2", "--slices", "2", "--config.mesh.fsdp=8")
    assert done.returncode == 2
    assert "multiple of the 2 slices" in done.stderr


@needs_libtpu
@pytest.mark.slow
def test_a_search_ranks_what_fits(tmp_path):
    words = ("--search", "--json", str(tmp_path / "plan.json"))
    done = plan("--topology", "v5e:2x2", *words, "--plot", str(tmp_path / "memory.svg"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    seconds = [one["step_seconds"] for one in found["search"].values()]
    assert seconds == sorted(seconds) and found["step_seconds"] == seconds[0]
    assert next(iter(found["search"])) == found["choice"]
    assert len(seconds) == 3 and "tensor=4 remat=none" in done.stderr
    assert not any("tensor=4" in choice for choice in found["search"])  # does not divide the heads
    assert (tmp_path / "memory.svg").stat().st_size > 0


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_says_by_how_much():
    words = ("--config.model.text.vocab_size=100000000",)
    done = plan("--topology", "v5e:2x2", *words)
    assert done.returncode == 2, done.stderr
    assert "does not fit" in done.stderr and "are lacking" in done.stderr


def test_gpus_are_estimated(tmp_path):
    words = ("--json", str(tmp_path / "plan.json"), "--config.mesh.fsdp=8")
    done = plan("--topology", "h100:2x8", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["estimated"] and found["chips"] == 16 and found["slices"] == 2
    assert found["bytes_by_part"]["parameters"] < 4 * found["parameters"] / 7
    by_kind = {(row["kind"], row["devices"]): row for row in found["collectives"]}
    assert by_kind["all-gather", 8]["bytes"] == 2 * by_kind["reduce-scatter", 8]["bytes"]
    assert found["seconds_by_term"]["between_slices"] > 0


def test_gpus_whose_memory_is_too_small():
    done = plan("--topology", "h100:1x8", "--config.model.text.vocab_size=1000000000")
    assert done.returncode == 2
    assert "does not fit" in done.stderr and "h100 has 67.06" in done.stderr
    assert "a smaller model or more chips would be needed" in done.stderr


def test_what_would_fit_is_said_and_fits():
    words = ("--topology", "h100:1x8", "--config.train.batch_size=2097152")
    done = plan(*words)
    assert done.returncode == 2
    fits = re.search(
        r"this fits: fsdp=(\d+) tensor=1 remat=full grad_accum_steps=(\d+)", done.stderr
    )
    assert int(fits[2]) > 1
    advised = (f"--config.mesh.fsdp={fits[1]}", f"--config.train.grad_accum_steps={fits[2]}")
    done = plan(*words, *advised, "--config.model.remat=full")
    assert done.returncode == 0, done.stderr


def test_a_shape_that_is_none_of_gpus():
    done = plan("--topology", "h100:8")
    assert done.returncode == 2 and "machines x GPUs, like h100:4x8" in done.stderr
