"""Weights & Biases and MLflow without a server: their files, read back."""

import json
import logging
import pathlib
import re
import struct
import time

import cv2
import numpy as np
import pytest
from small_run import STEPS, make_config

from coca_jax.config import default_config, write_config
from coca_jax.observe.writers import MetricWriter, read_metrics
from coca_jax.train import loop

KEY = "0123456789abcdef" * 2 + "01234567"
LOSSES = {step: step / 2 for step in range(1, 7)}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A key that may be written nowhere, and a server that does not exist."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)


def attempt(workdir, config, steps, resume_step, evaluated=()):
    """Writes metrics of these steps, and at some of them an evaluation with an image."""
    image = cv2.imencode(".jpg", np.full((8, 8, 3), 200, np.uint8))[1].tobytes()
    sample = {"image": image, "caption": "a <cat>", "references": ["a dog"]}
    with MetricWriter(workdir, resume_step, config.metrics) as writer:
        for step in steps:
            parts = {"train/norm": 2.0, "train/norm/decoder": 1.0, "goodput/share": 0.5}
            writer.write(step, {"train/loss": LOSSES[step]} | parts)
            if step in evaluated:
                writer.write_samples(step, {"captioning": {"samples": [sample]}})
                writer.write(step, {"eval/captioning/cider": step / 10})


def configured(workdir, writer, **options):
    config = default_config()
    config.metrics.writers = ("jsonl", writer)
    config.metrics.options[writer].update(options)
    write_config(workdir, config)
    return config


def logged(file):
    """The records of a run-<id>.wandb file, by the format's description."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, message = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        message, at = message + data[at + 7 : at + 7 + size], at + 7 + size
        if at > len(data):  # cut
            return
        if kind in (1, 4):  # all of a record, or its last part
            yield Record.FromString(message)
            message = b""


def history(files):
    """Step -> values, of all files of a run; no step has a value twice."""
    rows = {}
    for file in files:
        for record in logged(file):
            for item in record.history.item:
                name, row = "/".join(item.nested_key) or item.key, record.history.step.num
                assert name not in rows.setdefault(row, {}) or name.startswith("_")
                rows[row][name] = json.loads(item.value_json)
    return rows


def wandb_files(workdir, count):
    """The files of all attempts, each of which is written to its end."""
    files = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == count
    assert any(record.HasField("exit") for record in logged(files[-1]))
    return files


@pytest.fixture
def wandb():
    module = pytest.importorskip("wandb")
    yield module
    module.teardown()


def test_wandb_goes_on_in_one_run_after_a_kill(tmp_path, wandb):
    workdir = tmp_path / "run"
    config = configured(workdir, "wandb", mode="offline", project="coca", tags=("a", "b"))
    attempt(workdir, config, (1, 2, 3, 4, 5), 0, evaluated=(2, 4))
    [first] = wandb_files(workdir, 1)
    content = first.read_bytes()
    first.write_bytes(content[: content.rindex(b"train/loss")])  # the last row is lost
    time.sleep(1.1)  # folders are named by the second
    attempt(workdir, config, (3, 4, 5, 6), 2, evaluated=(4, 6))
    files = wandb_files(workdir, 2)
    assert len({file.name for file in files}) == 1  # one run
    rows = history(files)
    assert {step: row["train/loss"] for step, row in rows.items()} == LOSSES
    evaluated = [row for row in rows.values() if "eval/captioning/step" in row]
    points = [(row["eval/captioning/step"], row["eval/captioning/cider"]) for row in evaluated]
    assert sorted(points) == [(2, 0.2), (4, 0.4), (6, 0.6)]
    image = "eval/captioning/captions"
    assert evaluated[-1][f"{image}/captions"] == ["a <cat>\nreference: a dog"]
    [name] = evaluated[-1][f"{image}/filenames"]
    assert cv2.imread(str(files[1].parent / "files" / name)).shape == (8, 8, 3)
    run = next(record.run for record in logged(files[1]) if record.HasField("run"))
    assert (run.project, run.display_name, list(run.tags)) == ("coca", "run", ["a", "b"])
    stored = {item.key or item.nested_key[0]: item.value_json for item in run.config.update}
    assert json.loads(stored["train"])["steps"] == 1000 and "versions" in stored
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_run_gains_a_tracker_with_all_of_its_metrics(tmp_path, wandb):
    workdir = tmp_path / "run"
    config = configured(workdir, "wandb", mode="offline")
    config.metrics.writers = ("jsonl",)
    attempt(workdir, config, (1, 2, 3), 0, evaluated=(2,))
    config.metrics.writers = ("wandb", "jsonl")
    attempt(workdir, config, (3,), 2)
    rows = history(wandb_files(workdir, 1))
    assert {step: row["train/loss"] for step, row in rows.items()} == {1: 0.5, 2: 1.0, 3: 1.5}
    assert rows[2]["eval/captioning/cider"] == 0.2


@pytest.mark.parametrize("store", ["file", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_mlflow_goes_on_in_one_run_after_a_kill(tmp_path, store):
    mlflow = pytest.importorskip("mlflow")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    uri = f"sqlite:///{tmp_path}/mlflow.db" if store == "sqlite" else f"file:{tmp_path}/mlruns"
    workdir = tmp_path / "run"
    config = configured(workdir, "mlflow", tracking_uri=uri, tags=(("team", "x"),))
    attempt(workdir, config, (1, 2, 3, 4), 0, evaluated=(2, 4))
    config.train.log_every = 7
    config.metrics.options.mlflow.run_name = "renamed"
    write_config(workdir, config)
    attempt(workdir, config, (3, 4, 5, 6), 2, evaluated=(4, 6))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("coca_jax").experiment_id
    [run] = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.tags["team"] == "x"
    for name, values in {
        "train/loss": LOSSES,
        "eval/captioning/cider": {2: 0.2, 4: 0.4, 6: 0.6},
    }.items():
        points = client.get_metric_history(run.info.run_id, name)
        assert [(p.step, p.value) for p in points] == list(values.items())
    name = "train/norm.decoder" if store == "file" else "train/norm/decoder"
    assert run.data.metrics[name] == 1.0
    assert run.data.params["train.log_every"] == "10"  # the first, since MLflow changes none
    file = client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))
    assert json.loads(pathlib.Path(file).read_text())["config"]["train"]["log_every"] == 7
    names = [a.path for a in client.list_artifacts(run.info.run_id, "images")]
    steps = [int(re.search(r"captions~00\+step\+(\d+)", n)[1]) for n in names if n.endswith("png")]
    assert sorted(steps) == [2, 4, 6]
    folder = "eval/captioning/captions"
    assert len(client.list_artifacts(run.info.run_id, folder)) == 3
    page = client.download_artifacts(run.info.run_id, f"{folder}/00000006.html", str(tmp_path))
    assert "a &lt;cat&gt;\nreference: a dog" in pathlib.Path(page).read_text()


@pytest.mark.parametrize(
    ("writer", "reason"),
    [
        ("mlflow", "ConnectionError: .*Connection refused"),
        ("wandb", "UserError: there is no key: `wandb login`, or set WANDB_API_KEY"),
    ],
)
def test_what_a_tracker_lacks_is_said_and_the_run_goes_on(
    tmp_path, monkeypatch, capfd, wandb, writer, reason
):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begin = time.monotonic()
    attempt(tmp_path / "run", configured(tmp_path / "run", writer), (1, 2), 0)
    assert time.monotonic() - begin < 10
    lines = capfd.readouterr().err
    assert re.search(f"metrics do not reach {writer}: {reason}.*; the run goes on\n", lines)
    assert f"2 log points are missing in {writer}" in lines
    assert len(read_metrics(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_trained_run_is_in_both_with_its_captions(
    tmp_path, prepared, compiled_once, programs_once, wandb
):
    mlflow = pytest.importorskip("mlflow")
    config = make_config(prepared, ("captioning",))
    config.metrics.writers = ("jsonl", "wandb", "mlflow")
    config.metrics.options.wandb.mode = "offline"
    config.metrics.options.mlflow.tracking_uri = f"file:{tmp_path}/mlruns"
    loop.train(config, tmp_path / "run")
    wanted = {
        r["step"]: r["train/loss"] for r in read_metrics(tmp_path / "run") if "train/loss" in r
    }
    rows = history(wandb_files(tmp_path / "run", 1))
    assert {step: row["train/loss"] for step, row in rows.items()} == wanted
    assert rows[STEPS]["eval/captioning/captions/count"] > 1
    client = mlflow.MlflowClient(f"file:{tmp_path}/mlruns")
    [run] = client.search_runs([client.get_experiment_by_name("coca_jax").experiment_id])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert {point.step: point.value for point in points} == wanted
    assert run.data.params["train.steps"] == str(STEPS) and "versions.jax" in run.data.params
    assert len(client.list_artifacts(run.info.run_id, "eval/captioning/captions")) == 1
