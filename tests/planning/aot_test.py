"""The step that is compiled ahead of time, and what `coca plan` reports of it."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from coca_jax.config import load_config, model_config
from coca_jax.errors import UserError
from coca_jax.planning import cuda, estimate, parameter_counts, training_flops
from coca_jax.planning.aot import estimate_ahead, full_mesh

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = f"{ROOT}/configs/shapes.py:smoke"
PACKED = ["--config.data.packing.texts_per_row=4", "--config.data.packing.row_length=32"]
MATCHING = ["--config.loss.matching.weight=1.0", "--config.loss.matching.block_size=16"]
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed (the plan extra)"
)
needs_cuda = pytest.mark.skipif(
    not cuda.is_installed(), reason="JAX's CUDA plugin is not installed (the plan-cuda extra)"
)
# Runs `coca plan` with each list of words on stdin, in one process; annotations are not checked in
# it, since shapes stand for arrays. Advice on what would fit is followed by a plan of it.
SCRIPT = """
import contextlib, io, json, re, sys
from coca_jax import cli

def run(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["plan", "--config", config, *words])
    return {"code": int(code), "out": out.getvalue(), "err": err.getvalue()}

config, commands, estimated = json.load(sys.stdin)
if estimated:
    from coca_jax.planning import cuda
    cuda.is_installed = lambda: False
done = {}
for name, words in commands.items():
    done[name] = run(words)
    fits = re.search(r"this fits: fsdp=(\\d+) .*remat=full .*steps=(\\d+)", done[name]["err"])
    if fits:
        advised = [f"--config.mesh.fsdp={fits[1]}", f"--config.train.grad_accum_steps={fits[2]}"]
        done[f"{name}, advised"] = run([*words, *advised, "--config.model.remat=full"])
if "gpus" in commands:
    import jax
    from coca_jax.config import load_config
    from coca_jax.planning.aot import compile_ahead, full_mesh
    config = load_config(config, ["--config.mesh.fsdp=2"])
    compiled, step = compile_ahead(config, full_mesh(config, jax.devices()))
    done["here"] = compiled.input_shardings[0][1]["image"].shard_shape((32, 8, 8, 3))
print(json.dumps(done))
"""


def plan(commands, estimated=False):
    # Without what conftest.py sets: the command chooses its platform itself.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([CONFIG, commands, estimated]),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LARGE = ["--config.model.text.vocab_size=1000000000"]
FEW_CHOICES = ["--config.train.batch_size=1024", "--config.train.grad_accum_steps=64"]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    cluster = ["--topology", "h100:2x8"]
    done = plan(
        {
            "unknown": ["--topology", "v9:2x2"],
            "shape": ["--topology", "h100:8"],
            "gpus": [*cluster, "--json", f"{folder}/plan.json", "--config.mesh.fsdp=8"],
            "too large": [*cluster, *LARGE, *FEW_CHOICES],
            "too many": [*cluster, "--config.train.batch_size=3145728"],
            "kernels": [*cluster, "--kernels", "--hlo", f"{folder}/step.hlo"],
            "no folder": [*cluster, "--hlo", f"{folder}/missing/step.hlo"],
            "plot": [*cluster, "--plot", f"{folder}/plan.xyz"],
            "two": [*cluster, "--hlo", f"{folder}/step.hlo", "--search"],
            "mesh": [*cluster, "--config.mesh.data=3", "--config.train.batch_size=48"],
        },
        estimated=True,
    )
    return done | {"json": json.loads((folder / "plan.json").read_text())}


@pytest.fixture(scope="module")
def tpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpus")
    slice_ = ["--topology", "v5e:2x2"]
    files = {
        name: ["--json", f"{folder}/{name}.json", "--plot", f"{folder}/{name}.png"]
        for name in ("pod", "slices", "search")
    }
    done = plan(
        {
            "pod": [*slice_, *files["pod"]],
            "slices": [*slice_, *files["slices"], "--slices", "2", "--config.mesh.fsdp=4"],
            "mesh": [*slice_, "--slices", "2", "--config.mesh.fsdp=8"],
            "search": [*slice_, *files["search"], "--search"],
            "too large": [*slice_, "--config.model.text.vocab_size=100000000"],
        }
    )
    for name in files:
        assert done[name]["code"] == 0, done[name]["err"]
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        done[name]["plan"] = json.loads((folder / f"{name}.json").read_text())
    return done


def test_devices_that_are_here(gpus):
    assert gpus["here"] == [2, 8, 8, 3]


def test_a_mesh_that_leaves_devices_out_is_refused():
    config = load_config(CONFIG, ["--config.mesh.data=3"])
    config.train.batch_size = 18
    with pytest.raises(UserError, match="takes 3 of the 8 devices"):
        full_mesh(config, list(range(8)))


@pytest.mark.parametrize("changes", [PACKED, MATCHING], ids=["packed", "matching"])
def test_an_estimate_splits_rows_that_are_not_examples(changes, monkeypatch):
    ratios, count = [], estimate.hbm_bytes

    def hbm_bytes(program, split):
        monkeypatch.undo()  # for it calls itself
        ratios.append(count(program, split._replace(shards=1)) / count(program, split))
        return 0

    monkeypatch.setattr(estimate, "hbm_bytes", hbm_bytes)
    config = load_config(CONFIG, [*changes, "--config.train.batch_size=512"])
    estimate_ahead(config, full_mesh(config, jax.devices()))
    assert 6 < ratios[0] < 8  # kernels of the layers are whole on each device


def test_an_unknown_topology_is_refused(gpus):
    done = gpus["unknown"]
    assert done["code"] == 2
    assert "'v9:2x2' is not known" in done["err"] and "v4:8x16x16" in done["err"]


@needs_libtpu
@pytest.mark.slow
def test_a_pod_that_is_not_here(tpus):
    found = tpus["pod"]["plan"]
    config = load_config(CONFIG)
    model = model_config(config)
    assert found["chips"] == 4
    assert found["parameters"] == sum(parameter_counts(model).values())
    assert found["flops_per_step"] == config.train.batch_size * training_flops(model)
    bytes_ = found["bytes_per_chip"]
    assert 4 * found["parameters"] < bytes_["arguments"] < bytes_["peak"] < bytes_["limit"]
    assert found["hardware_flops_per_step"] >= found["flops_per_step"]
    terms = found["seconds_by_term"]
    assert terms["matrix"] == pytest.approx(found["hardware_flops_per_step"] / (4 * 197e12))
    assert found["step_seconds"] == max(terms.values()) < found["step_seconds_without_overlap"]
    moved = {row["kind"]: row["bytes"] for row in found["collectives"]}
    # Parameters are replicated, so that the gradient of each is added up once, at 2 bytes or 4.
    gradients = moved.get("all-reduce", 0) + moved.get("reduce-scatter", 0)
    assert 2 * found["parameters"] < gradients < 6 * found["parameters"]
    parts = found["bytes_by_part"]
    assert sum(parts.values()) == pytest.approx(bytes_["peak"])
    assert parts["parameters"] == 4 * found["parameters"]


@needs_libtpu
@pytest.mark.slow
def test_slices_that_are_not_here(tpus):
    found = tpus["slices"]["plan"]
    assert found["chips"] == 8 and found["slices"] == 2
    sent = {row["kind"]: row for row in found["collectives"]}["send"]
    # Each chip sends a quarter of the gradients to the other slice.
    assert sent["devices"] == 2 and sent["bytes"] > 2 * found["parameters"] / 4
    assert found["seconds_by_term"]["between_slices"] == pytest.approx(sent["bytes"] / 3.125e9)
    assert "2 slices" in tpus["slices"]["out"]


@needs_libtpu
@pytest.mark.slow
def test_the_mesh_keeps_to_slices(tpus):
    assert tpus["mesh"]["code"] == 2 and "multiple of the 2 slices" in tpus["mesh"]["err"]


@needs_libtpu
@pytest.mark.slow
def test_a_search_ranks_what_fits(tpus):
    found = tpus["search"]["plan"]
    seconds = [one["step_seconds"] for one in found["search"].values()]
    assert seconds == sorted(seconds) and found["step_seconds"] == seconds[0]
    assert next(iter(found["search"])) == found["choice"]
    assert len(seconds) == 3 and "tensor=4 remat=none" in tpus["search"]["err"]
    assert not any("tensor=4" in choice for choice in found["search"])  # does not divide the heads


@needs_libtpu
@pytest.mark.slow
def test_a_step_that_does_not_fit_says_by_how_much(tpus):
    done = tpus["too large"]
    assert done["code"] == 2, done["err"]
    assert "does not fit" in done["err"] and "GiB are missing" in done["err"]


def test_gpus_are_estimated(gpus):
    assert gpus["gpus"]["code"] == 0, gpus["gpus"]["err"]
    found = gpus["json"]
    assert found["estimated"] and found["chips"] == 16 and found["slices"] == 2
    assert found["bytes_by_part"]["parameters"] < 4 * found["parameters"] / 7
    by_kind = {(row["kind"], row["devices"]): row for row in found["collectives"]}
    assert by_kind["all-gather", 8]["bytes"] == 2 * by_kind["reduce-scatter", 8]["bytes"]
    assert found["seconds_by_term"]["between_slices"] > 0
    for words in ("2 machines, 16 chips", "hardware FLOPs", "temp  ", "collective"):
        assert words in gpus["gpus"]["out"]


def test_gpus_whose_memory_is_too_small(gpus):
    done = gpus["too large"]
    assert done["code"] == 2
    assert "does not fit" in done["err"] and "h100 has 71.20" in done["err"]
    assert "none of the meshes that were tried fits" in done["err"]
    assert "a smaller model or more chips would be needed" in done["err"]


def test_what_would_fit_is_said_and_fits(gpus):
    assert gpus["too many"]["code"] == 2
    fits = re.search(
        r"this fits: fsdp=\d+ .*remat=full grad_accum_steps=(\d+)", gpus["too many"]["err"]
    )
    assert int(fits[1]) > 1, gpus["too many"]["err"]
    assert gpus["too many, advised"]["code"] == 0, gpus["too many, advised"]["err"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shape", "machines x GPUs, like h100:4x8"),
        (
            "kernels",
            '--kernels and --hlo: no compiler for h100:2x8 is installed: pip install "coca',
        ),
        ("no folder", "missing/step.hlo: there is no folder"),
        ("plot", "plan.xyz should end in one of ."),
        ("two", "--hlo and --search: choose one"),
        ("mesh", "takes 3 of the 16 devices"),
    ],
)
def test_mistakes_with_gpus_are_named(gpus, name, words):
    assert gpus[name]["code"] == 2
    assert words in gpus[name]["err"].replace("\n", " ")
    assert "estimating" not in gpus[name]["err"] or name == "mesh"


@pytest.fixture(scope="module")
def compiled_gpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    cluster = ["--topology", "h100:2x1", "--config.mesh.fsdp=2", "--config.mesh.data=1"]
    files = ["--json", f"{folder}/plan.json", "--hlo", f"{folder}/step.hlo", "--kernels", "5"]
    done = plan({"cluster": [*cluster, *files]})
    assert done["cluster"]["code"] == 0, done["cluster"]["err"]
    found = json.loads((folder / "plan.json").read_text())
    return done["cluster"], found, (folder / "step.hlo").read_text()


@needs_cuda
@pytest.mark.slow
def test_gpus_that_are_not_here_are_compiled_for(compiled_gpus):
    _, found, program = compiled_gpus
    assert not found["estimated"] and "__cudnn$fmha" in program
    parameters = 4 * found["parameters"] / 2  # float32, on two devices
    assert parameters < found["bytes_by_part"]["parameters"] < 1.1 * parameters
    assert found["bytes_per_chip"]["temporaries"] > 0
    assert found["seconds_by_term"]["between_slices"] > 0
    assert found["seconds_by_term"]["interconnect"] == 0  # one GPU in each machine


@needs_cuda
@pytest.mark.slow
def test_kernels_of_gpus_add_up(compiled_gpus):
    done, found, _ = compiled_gpus
    kernels = found["kernels"]
    seconds = [row["seconds"] for row in kernels]
    assert seconds == sorted(seconds, reverse=True)
    assert found["predicted_step_seconds"] == pytest.approx(sum(seconds))
    # Counted in the compiled program, and in the traced one.
    flops = 2 * sum(row["flops"] for row in kernels)
    assert flops == pytest.approx(found["hardware_flops_per_step"], rel=0.05)
    assert {"matmul", "attention", "collective"} <= {row["kind"] for row in kernels}
    assert f"{kernels[0]['part']:<64}{kernels[0]['kind']}" in done["out"]
    assert "the sum over all kernels" in done["out"]
