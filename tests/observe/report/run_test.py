import json
import math

import pytest

from coca_jax.errors import UserError
from coca_jax.observe.report.run import read_run


def write(workdir, records, evaluations=()):
    lines = [json.dumps(record) + "\n" for record in records]
    (workdir / "metrics.jsonl").write_text("".join(lines))
    (workdir / "eval").mkdir()
    for step, metrics in dict(evaluations).items():
        (workdir / f"eval/{step}.json").write_text(json.dumps(metrics))


def test_curves_are_placed_by_examples_seen(tmp_path):
    records = [
        {"step": 4, "eval/a/top1": 0.5},  # before the first log point
        {"step": 10, "train/loss": 3.0, "train/examples_seen": 80},
        {"step": 15, "train/extra": 7.0},
        {"step": 20, "train/loss": None, "train/examples_seen": 160},
    ]
    write(tmp_path, records)
    run = read_run(tmp_path)
    assert run.x_label == "examples seen"
    x, y = run.curve("train/loss")
    assert x.tolist() == [80, 160]
    assert y[0] == 3 and math.isnan(y[1])
    assert run.curve("train/extra")[0].tolist() == [120]
    assert run.evaluation_curve("a", "top1")[0].tolist() == [32]
    assert run.last["train/extra"] == 7


def test_without_examples_seen_curves_are_placed_by_step(tmp_path):
    write(tmp_path, [{"step": 10, "train/loss": 3.0}])
    run = read_run(tmp_path)
    assert run.x_label == "step"
    assert run.curve("train/loss")[0].tolist() == [10]


def test_evaluations_come_from_both_files_in_order_of_steps(tmp_path):
    records = [{"step": 900, "eval/a/top1": 0.1, "eval/a/count": 5}, {"step": 20, "train/loss": 1}]
    files = {1000: {"a": {"top1": 0.2}, "b": {"r1": None}}, 20: {"a": {"top1": 0.05}}}
    write(tmp_path, records, files)
    run = read_run(tmp_path)
    assert list(run.evaluations) == [20, 900, 1000]
    assert run.evaluations[900] == {"a": {"top1": 0.1, "count": 5}}
    assert math.isnan(run.evaluations[1000]["b"]["r1"])
    x, y = run.evaluation_curve("a", "top1")
    assert (x.tolist(), y.tolist()) == ([20, 900, 1000], [0.05, 0.1, 0.2])


def test_the_newest_artifacts_are_taken_by_number(tmp_path):
    write(tmp_path, [{"step": 1}])
    for step in (900, 1000):
        folder = tmp_path / f"eval/{step}"
        folder.mkdir()
        (folder / "artifacts.json").write_text(json.dumps({"a": {"step": step}}))
    run = read_run(tmp_path)
    assert run.artifacts == {"a": {"step": 1000}}
    assert run.artifacts_folder == tmp_path / "eval/1000"
    assert run.captions == {}


def test_captions_are_found_by_step_and_image(tmp_path):
    write(tmp_path, [{"step": 1}])
    for step in (1000, 900):
        folder = tmp_path / f"eval/{step}"
        folder.mkdir()
        rest = {"log_probability": None, "references": [], "exact": False}
        samples = [
            {"image": f"{i}.jpg", "caption": f"{i} at {step}", **rest} for i in range(step // 500)
        ]
        left = {"a": {"samples": samples}, "b": {"confused": []}}
        (folder / "artifacts.json").write_text(json.dumps(left))
    found = read_run(tmp_path).captions
    assert list(found) == ["a"] and list(found["a"]) == [900, 1000]
    assert found["a"][1000]["1.jpg"]["caption"] == "1 at 1000"
    assert list(found["a"][900]) == ["0.jpg"]


def test_a_folder_that_is_no_workdir_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match="not a workdir"):
        read_run(tmp_path)
