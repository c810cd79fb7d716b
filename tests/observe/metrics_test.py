import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.observe.metrics import MetricWriter, read_metrics


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_one_json_object_a_line(tmp_path):
    with MetricWriter(tmp_path / "run") as writer:
        writer.write(10, {"train/loss": np.float32(0.5), "train/mfu": jnp.asarray(0.25)})
        # Readable while the run goes on.
        assert lines(tmp_path / "run") == [{"step": 10, "train/loss": 0.5, "train/mfu": 0.25}]
        writer.write(20, {"eval/shapes/top1": 1})
    assert lines(tmp_path / "run")[1] == {"step": 20, "eval/shapes/top1": 1.0}


def test_values_that_are_not_finite_are_null_on_disk_and_nan_when_read(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": 2.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "a": null, "b": null, "c": 2.0}\n'
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["a"]) and math.isnan(record["b"]) and record["c"] == 2


def write_steps(workdir, steps, resume_step=None):
    with MetricWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.write(step, {"train/loss": float(step)})


def test_resuming_drops_what_lies_ahead(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40])
    write_steps(tmp_path, [30, 40], resume_step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]
    write_steps(tmp_path, [50])
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40, 50]
    write_steps(tmp_path, [10], resume_step=0)
    assert [line["step"] for line in lines(tmp_path)] == [10]


@pytest.mark.parametrize("torn", ['{"step": 30, "train/lo', '{"step": 30}', '{"st\n'])
def test_a_torn_line_is_tolerated_and_never_joined_to_the_next(tmp_path, torn):
    write_steps(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    write_steps(tmp_path, [30])
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_no_file_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_reads_one_value_a_step_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_steps(tmp_path, [10, 20, 30, 40])
    write_steps(tmp_path, [30], resume_step=20)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(10, 10), (20, 20), (30, 30)]
