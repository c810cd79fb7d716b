"""Runs whose workdir is in an object store, on a real server: the same as local ones."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import quiet_config
import stores
from small_run import ROOT, SMALL, STEPS, losses, make_config

import coca_jax
from coca_jax.errors import Preempted
from coca_jax.evaluate.results import read_step
from coca_jax.io import files, folders
from coca_jax.observe.progress import Progress
from coca_jax.observe.report import write_report
from coca_jax.observe.writers import read_metrics
from coca_jax.train import loop

pytestmark = pytest.mark.usefixtures("compiled_once", "programs_once")


@pytest.fixture(scope="module")
def gcs():
    with stores.gcs_store() as store:
        yield store


@pytest.fixture(params=["gs", "s3"])
def workdir(request):
    """A new workdir in a store of each kind."""
    if request.param == "gs":
        request.getfixturevalue("gcs")
        yield f"gs://{stores.BUCKET}/runs/a run"
        return
    with stores.s3_store():
        yield f"s3://{stores.BUCKET}/runs/a run"


def test_a_run_that_is_stopped_goes_on_as_a_local_one(prepared, workdir, small_run, monkeypatch):
    config, update = make_config(prepared), Progress.update

    def stop(self, step, metrics=None):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, step, metrics)

    monkeypatch.setattr(Progress, "update", stop)
    with pytest.raises(Preempted):
        loop.train(config, workdir)
    monkeypatch.setattr(Progress, "update", update)
    loop.train(config, workdir)
    assert losses(workdir) == losses(small_run)
    names = folders.tree(workdir)
    for name in ("config.json", "tokenizer.model", "goodput.json", f"eval/{STEPS}.json"):
        assert name in names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert f"checkpoints/{STEPS}/manifest.json" in names

    model = coca_jax.load(f"{workdir}/")
    assert model.step == STEPS and model.encode_text(model.tokenize(["a red circle"])).shape[0] == 1
    assert read_step(workdir, STEPS)["zero_shot"]["count"] > 0
    assert "<html" in files.read_bytes(write_report(workdir)).decode()
    assert not os.path.exists(workdir.split("//")[0])  # no local folder of this name


def start(prepared, workdir, folder, **changes):
    """Starts `coca train` in a process of its own."""
    changes = SMALL | {"data.dir": prepared} | changes
    words = [f"--config.{key}={value}" for key, value in changes.items()]
    call = [sys.executable, "-m", "coca_jax", "train", "--config", quiet_config.write(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [*call, "--workdir", workdir, *words], cwd=ROOT, env=environment, **pipes
    )


def wait_for_step(workdir, step, process):
    """Waits until the metrics of a step have come to the store."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if any(record["step"] >= step for record in read_metrics(workdir)):
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_killed_five_times_the_losses_are_a_local_runs(gcs, prepared, tmp_path):
    changes = {"train.steps": 40, "train.evaluate_every": 0}
    with start(prepared, str(tmp_path / "local"), tmp_path, **changes) as process:
        assert process.wait(300) == 0, process.stdout.read()
    workdir, draw = f"gs://{stores.BUCKET}/runs/killed", random.Random(0)
    for kill in range(5):
        with start(prepared, workdir, tmp_path, **changes) as process:
            wait_for_step(workdir, 7 * kill + draw.randrange(3, 7), process)
            process.kill()
    with start(prepared, workdir, tmp_path, **changes) as process:
        assert process.wait(300) == 0, process.stdout.read()
    assert losses(workdir) == losses(tmp_path / "local")


@pytest.mark.slow
def test_a_store_that_goes_away_for_20_seconds_is_waited_for(gcs, prepared, tmp_path):
    workdir = f"gs://{stores.BUCKET}/runs/away"
    with start(prepared, workdir, tmp_path, **{"train.steps": 40}) as process:
        wait_for_step(workdir, 5, process)
        gcs.fault = lambda number: 503
        threading.Timer(20, setattr, (gcs, "fault", lambda number: None)).start()
        assert process.wait(300) == 0, process.stdout.read()
    assert len(losses(workdir)) == 40


@pytest.mark.slow
def test_lost_credentials_end_a_run_with_one_message_and_a_checkpoint(gcs, prepared, tmp_path):
    workdir = f"gs://{stores.BUCKET}/runs/forgotten"
    with start(prepared, workdir, tmp_path, **{"train.steps": 40}) as process:
        wait_for_step(workdir, 9, process)
        gcs.fault = lambda number: 403
        output, _ = process.communicate(timeout=300)
    gcs.fault = lambda number: None
    assert process.returncode == 2
    assert "Traceback" not in output and "coca train: " in output
    with start(prepared, workdir, tmp_path, **{"train.steps": 40}) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert len(losses(workdir)) == 40
