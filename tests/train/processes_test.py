"""Real processes, started by `launch/local.py`: the same run as one process makes."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from coca_jax.config import load_config
from coca_jax.observe.writers import read_metrics
from coca_jax.train import loop

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = f"{ROOT}/configs/shapes.py:smoke"
STEPS = 6
SMALL = {
    "model.image.width": 32,
    "model.text.width": 32,
    "train.steps": STEPS,
    "train.log_every": 1,
    "checkpoint.every": 2,
    "model.dropout": 0.1,
    "optimizer.ema_decay": 0.9,
}
SAME = ("train/loss", "train/contrastive_loss", "train/captioning_loss", "train/grad_norm", "eval/")
# A configuration whose process 1 may be sent a signal: once, before a step, after a saved one.
SIGNALED = """\
import os, pathlib, signal, time, types
from coca_jax.config import load_config
from coca_jax.evaluate.metrics import meteor
from coca_jax.observe.profiler import Profiler

FOLDER = pathlib.Path(__file__).parent
SIGNALS = {"killed": (signal.SIGKILL, 5, 4), "stopped": (signal.SIGTERM, 3, 2)}


def get_config(argument=None):
    config = load_config("configs/shapes.py:smoke")
    config.eval = {name: config.eval[name] for name in ("retrieval", "captioning")}
    if "COCA_PROCESS" in os.environ:
        meteor.shutil = types.SimpleNamespace(which=lambda name: None)  # as in all tests
    if argument and os.environ["COCA_PROCESS"] == "1" and not (FOLDER / argument).exists():
        send(argument, *SIGNALS[argument])
    return config


def send(name, number, before, saved):
    step_as_ever = Profiler.step

    def step(self, number_of_step, metrics):
        if number_of_step == before:
            (FOLDER / name).touch()
            while not (FOLDER / f"run/checkpoints/{saved}/manifest.json").exists():
                time.sleep(0.05)
            os.kill(os.getpid(), number)
        step_as_ever(self, number_of_step, metrics)

    Profiler.step = step
"""


@pytest.fixture
def config(tmp_path):
    """The path of a configuration file in the test's own folder."""
    file = tmp_path / "signaled.py"
    file.write_text(SIGNALED)
    return str(file)


def start(prepared, workdir, processes, devices, *words, config, **changes):
    """Starts processes that train one run, each with its own devices."""
    changes = SMALL | {"data.dir": prepared} | changes
    return subprocess.Popen(
        [
            *(sys.executable, ROOT / "launch/local.py"),
            *(f"--processes={processes}", f"--devices={devices}", *words),
            *("--", "--config", config, "--workdir", workdir),
            *(f"--config.{key}={value}" for key, value in changes.items()),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """The output of a process, and its exit code."""
    try:
        return process.communicate(timeout=240)[0], process.returncode
    finally:
        process.kill()


def launch(*args, **changes):
    text, code = finish(start(*args, **changes))
    assert code == 0, text
    return text


def go_on_alone(prepared, workdir, config):
    config = load_config(config)
    config.update_from_flattened_dict(SMALL | {"data.dir": prepared, "mesh.data": 4})
    loop.train(config, workdir)


def numbers(workdir):
    """Of each line of the metrics, what must not depend on the number of processes."""
    return [
        [value for key, value in record.items() if key.startswith(SAME)]
        for record in read_metrics(workdir)
    ]


def assert_same(found, expected):
    assert [r["step"] for r in read_metrics(found)] == [r["step"] for r in read_metrics(expected)]
    for ours, theirs in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    tables = [json.loads((w / f"eval/{STEPS}.json").read_text()) for w in (found, expected)]
    for name, metrics in tables[1].items():
        # Numbers are compared as such; what is undefined is so for the same reason.
        values = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        assert metrics.keys() == tables[0][name].keys()
        assert tables[0][name].get("notes") == metrics.get("notes")
        assert {key: tables[0][name][key] for key in values} == pytest.approx(values, rel=1e-5)


def forget_steps(workdir, into, *steps):
    """A copy of a run that has not come to these steps."""
    shutil.copytree(workdir, into)
    for step in steps:
        shutil.rmtree(into / f"checkpoints/{step}")
    return into


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """The workdir of a run of one process on a mesh of four devices."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "signaled.py").write_text(SIGNALED)
    with pytest.MonkeyPatch.context() as patch:
        hidden = types.SimpleNamespace(which=lambda name: None)
        patch.setattr("coca_jax.evaluate.metrics.meteor.shutil", hidden)
        go_on_alone(prepared, folder / "run", str(folder / "signaled.py"))
    return folder / "run"


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_though_one_is_killed(alone, prepared, tmp_path, config):
    workdir = tmp_path / "run"
    text = launch(prepared, workdir, 2, 2, "--restarts=1", config=f"{config}:killed")
    assert "4 x cpu in 2 process(es)" in text
    assert re.search(r"process [01] ended with", text) and "starting again (1 of 1)" in text
    assert "resumed at step 4" in text
    assert_same(workdir, alone)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    assert "loss" not in (workdir / "logs/process_1.log").read_text()


@pytest.mark.slow
def test_four_processes_that_share_rows_go_on_as_one(alone, prepared, tmp_path, config):
    # One device each, so that two processes have the same rows and other columns of matrices.
    changes = {"mesh.data": 2, "mesh.tensor": 2}
    launch(prepared, tmp_path / "run", 4, 1, config=config, **changes)
    assert_same(tmp_path / "run", alone)
    one = forget_steps(tmp_path / "run", tmp_path / "one", STEPS)
    go_on_alone(prepared, one, config)
    assert_same(one, alone)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(
    alone, prepared, tmp_path, config
):
    """They go on from the run of one process, and it from theirs."""
    workdir = forget_steps(alone, tmp_path / "run", 4, STEPS)
    changes = {"mesh.data": 1, "mesh.fsdp": 2}
    text, code = finish(start(prepared, workdir, 2, 1, config=f"{config}:stopped", **changes))
    assert code == 3, text
    logs = [(workdir / f"logs/process_{i}.log").read_text() for i in (0, 1)]
    assert "resumed at step 2" in logs[0]
    steps = [re.search(r"after saving step (\d+)", log)[1] for log in logs]
    assert "a signal to another process" in logs[0] and "by SIGTERM" in logs[1]
    assert steps[0] == steps[1] == max(p.name for p in (workdir / "checkpoints").iterdir())
    go_on_alone(prepared, workdir, config)
    assert_same(workdir, alone)


def test_processes_with_different_configurations_are_refused(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = os.environ | {
        "COCA_COORDINATOR": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "COCA_PROCESSES": "2",
    }
    words = [sys.executable, "-m", "coca_jax", "train", "--config", CONFIG, "--workdir", tmp_path]
    pair = [
        subprocess.Popen(
            [*words, f"--config.train.batch_size={16 + 16 * index}"],
            env=variables | {"COCA_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]
    for text, code in map(finish, pair):
        assert code == 2, text
        assert "config.train.batch_size=32 instead of 16" in text
