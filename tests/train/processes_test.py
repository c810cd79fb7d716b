"""Real processes, started by `launch/local.py`: the same run as one process makes."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import quiet_config

from coca_jax.config import load_config
from coca_jax.observe.writers import read_metrics
from coca_jax.train import loop

# Other processes score by METEOR where they can; this one does the same.
pytestmark = pytest.mark.meteor

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


def start(prepared, workdir, processes, devices, *words, config=CONFIG, **changes):
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


def go_on_alone(prepared, workdir):
    config = load_config(CONFIG)
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
        assert tables[0][name] == pytest.approx(metrics, rel=1e-5), name


def forget_step(workdir, into, step):
    """A copy of a run that has not come to this step."""
    shutil.copytree(workdir, into)
    shutil.rmtree(into / f"checkpoints/{step}")
    return into


def wait_for_step(workdir, step, seconds=120):
    end = time.monotonic() + seconds
    while not any(r["step"] >= step for r in read_metrics(workdir)):
        assert time.monotonic() < end, f"step {step} is never reached"
        time.sleep(0.2)


def wait_for_checkpoint(workdir, seconds=120):
    """Until a step is saved whole, which takes longer than the steps that follow it."""
    end = time.monotonic() + seconds
    while not any(workdir.glob("checkpoints/*/manifest.json")):  # what is written last
        assert time.monotonic() < end, "no checkpoint is ever saved"
        time.sleep(0.05)


def child(workdir, index):
    """The process id of one of the run's processes."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(workdir).encode() in words and f"COCA_PROCESS={index}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"process {index} does not run")


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """The workdir of a run of one process on a mesh of four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    go_on_alone(prepared, workdir)
    return workdir


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(alone, prepared, tmp_path):
    text = launch(prepared, tmp_path / "run", 2, 2)
    assert "4 x cpu in 2 process(es)" in text
    assert_same(tmp_path / "run", alone)
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["2", "4", "6"]
    assert "loss" not in (tmp_path / "run/logs/process_1.log").read_text()


@pytest.mark.slow
def test_four_processes_that_share_rows_go_on_as_one_and_back(alone, prepared, tmp_path):
    # One device each, so that two processes have the same rows and other columns of matrices.
    launch(prepared, tmp_path / "four", 4, 1, **{"mesh.data": 2, "mesh.tensor": 2})
    assert_same(tmp_path / "four", alone)
    one = forget_step(tmp_path / "four", tmp_path / "one", STEPS)
    go_on_alone(prepared, one)
    assert_same(one, alone)
    two = forget_step(alone, tmp_path / "two", STEPS)
    launch(prepared, two, 2, 1, **{"mesh.data": 1, "mesh.fsdp": 2})
    assert_same(two, alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(prepared, tmp_path):
    changes = {"train.steps": 3000, "checkpoint.every": 3000}
    config = quiet_config.write(tmp_path)
    process = start(prepared, tmp_path / "run", 2, 1, config=config, **changes)
    wait_for_step(tmp_path / "run", 5)
    os.kill(child(tmp_path / "run", 1), signal.SIGTERM)
    text, code = finish(process)
    assert code == 3, text
    logs = [(tmp_path / f"run/logs/process_{i}.log").read_text() for i in (0, 1)]
    steps = [re.search(r"after saving step (\d+)", log)[1] for log in logs]
    assert "a signal to another process" in logs[0] and "by SIGTERM" in logs[1]
    assert steps[0] == steps[1]
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == [steps[0]]


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_run_started_again(prepared, tmp_path):
    workdir, changes = tmp_path / "run", {"train.steps": 32, "checkpoint.every": 4}
    config = quiet_config.write(tmp_path)
    process = start(prepared, workdir, 2, 1, "--restarts=1", config=config, **changes)
    wait_for_checkpoint(workdir)
    os.kill(child(workdir, 1), signal.SIGKILL)
    text, code = finish(process)
    assert code == 0, text
    assert re.search(r"process [01] ended with", text) and "starting again (1 of 1)" in text
    resumed = int(re.search(r"resumed at step (\d+)", text)[1])
    assert 4 <= resumed < 32 and resumed % 4 == 0
    steps = [r["step"] for r in read_metrics(workdir) if "train/loss" in r]
    assert steps == list(range(1, 33))


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
