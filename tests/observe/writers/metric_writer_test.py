import json
import math
import threading

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import stores

from coca_jax.io import folders
from coca_jax.observe.writers import MetricWriter, files, read_metrics, writers
from coca_jax.observe.writers.tensorboard import TensorBoardWriter


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


@pytest.mark.parametrize("truncated", ['{"step": 30, "train/lo', '{"step": 30}'])
def test_a_truncated_line_is_tolerated_and_never_joined_to_the_next(tmp_path, truncated):
    write_steps(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(truncated)
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    write_steps(tmp_path, [30])
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_a_resume_keeps_lines_that_are_not_read_unless_they_lie_ahead(tmp_path):
    others = ['{"step": 20, "train/loss": 2.0, "note": "é"}', '["mine"]', '{"st', "", "\xff"]
    kept = "".join(f"{line}\n" for line in others).encode("latin-1")
    write_steps(tmp_path, [10])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(kept + b'{"step": 40, "note": "ahead"}\n')
    write_steps(tmp_path, [40], resume_step=30)
    found = (tmp_path / "metrics.jsonl").read_bytes()
    begin, end = (f'{{"step": {step}, "train/loss": {step}.0}}\n'.encode() for step in (10, 40))
    assert found == begin + kept + end
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 40]


def test_no_file_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("name", ["run", "lr[1e-3] *"])
def test_tensorboard_reads_one_value_a_step_after_a_resume(name, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_steps(tmp_path / name, [10, 20, 30, 40])
    write_steps(tmp_path / name, [30], resume_step=20)
    events = accumulator.EventAccumulator(str(tmp_path / name / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(10, 10), (20, 20), (30, 30)]


def test_tensorboard_shows_samples_and_the_configuration(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "config.json").write_text('{"config": {"seed": 7}}')
    image = cv2.imencode(".jpg", np.full((8, 16, 3), 200, np.uint8))[1].tobytes()
    sample = {"image": image, "caption": "a <cat> | dog", "references": []}
    with MetricWriter(tmp_path, 0) as writer:
        writer.write_samples(5, {"captioning": {"samples": [sample]}})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [drawn] = events.Images("eval/captioning/captions/00")
    assert (drawn.step, drawn.width, drawn.height) == (5, 16, 8)
    texts = {tag: events.Tensors(tag)[0] for tag in events.Tags()["tensors"]}
    texts = {tag: event.tensor_proto.string_val[0].decode() for tag, event in texts.items()}
    assert '"seed": 7' in texts["config/text_summary"]
    table = texts["eval/captioning/captions/text_summary"]
    assert table.endswith("| 00 | a &lt;cat&gt; \\| dog |")


def test_a_store_gets_parts_and_a_run_goes_on_in_the_last(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "PART_BYTES", 60)
    with stores.gcs_store():
        workdir = f"gs://{stores.BUCKET}/run"
        write_steps(workdir, [1, 2, 3])  # two lines are a part
        write_steps(workdir, [3, 4, 5], resume_step=2)
        assert [record["step"] for record in read_metrics(workdir)] == [1, 2, 3, 4, 5]
        names = list(folders.tree(workdir))
        assert sum(name.startswith("tensorboard/") for name in names) > 2  # in parts, too
        names = [name for name in names if name.startswith("metrics")]
        assert names == ["metrics.00001.jsonl", "metrics.00002.jsonl", "metrics.jsonl"]


def test_a_missing_part_costs_only_its_own_lines(tmp_path):
    for name, step in (("metrics.00001", 2), ("metrics.00002", 3), ("metrics.100000", 4)):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"step": {step}}}\n')
    write_steps(tmp_path, [5])
    assert [record["step"] for record in read_metrics(tmp_path)] == [2, 3, 4, 5]


def test_a_registered_writer_gets_every_metric(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_added", {})
    calls = []

    @writers.register("mine")
    class Mine:
        def __init__(self, workdir, resume_step):
            calls.append((workdir, resume_step))

        def write(self, step, values):
            calls.append((step, values))

        def close(self):
            calls.append("closed")

    write_steps(tmp_path, [30], resume_step=20)
    assert calls == [(tmp_path, 20), (30, {"train/loss": 30.0}), "closed"]
    assert [line["step"] for line in lines(tmp_path)] == [30]


def test_the_end_of_tensorboards_thread_blocks_nothing(tmp_path, monkeypatch):
    writer = TensorBoardWriter(tmp_path)
    worker = writer._board.file_writer.event_writer._worker
    worker.stop()
    monkeypatch.setattr(worker, "is_alive", lambda: True)  # ends while values are added
    values = dict.fromkeys(map(str, range(50)), 1.0)

    def write_and_close():
        writer.write(1, values)
        writer.close()

    thread = threading.Thread(target=write_and_close, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
