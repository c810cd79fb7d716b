"""Comparisons: what is trained in which order, how they go on, and what is made of the numbers."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from coca_jax.config import load_config, model_config, read_config, write_config
from coca_jax.errors import Preempted, UserError
from coca_jax.evaluate.runner import runnable_evals
from coca_jax.observe.report.sweep import format_sweep
from coca_jax.sweep import compare
from coca_jax.sweep.runs import planned_runs, stages_of
from coca_jax.sweep.validation import sweep_errors

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"{ROOT}/configs/compare.py"
ROWS = (("contrastive", (("first.loss.captioning.weight", 0.0),)), ("coca", ()))


def make_config(rows=ROWS, seeds=(0, 1)):
    """Two stages, `first` and, from it, `again`; names that sort the other way round."""
    smoke = load_config(f"{CONFIG}:smoke")
    first, again = smoke.stages.pretraining, smoke.stages.questions
    again.init.path = "first"
    metrics = (
        ("zero-shot", "first", "zero_shot/top1"),
        ("CIDEr", "first", "captioning/cider"),
        ("VQA", "again", "vqa/accuracy"),
    )
    return ConfigDict(
        {
            "seeds": seeds,
            "stages": {"again": again, "first": first},
            "tables": (("objectives", rows),),
            "metrics": metrics,
        }
    )


class Trained:
    """Stands for the training loop: leaves made-up results, and may be stopped at a call."""

    def __init__(self, monkeypatch, stop_at=None):
        self.calls, self.starts, self._stop_at = [], [], stop_at
        monkeypatch.setattr(compare, "train", self)

    def __call__(self, config, workdir, start_time, *, fixed_length):
        assert fixed_length  # rows that were extended would not compare
        if len(self.calls) == self._stop_at:
            raise Preempted("stopped by SIGTERM")
        self.calls.append(workdir)
        self.starts.append(start_time)
        for folder in ("eval", "checkpoints/4"):
            (workdir / folder).mkdir(parents=True, exist_ok=True)
        (workdir / "checkpoints/4/manifest.json").write_text("{}")
        write_config(workdir, config)
        values = {"top1": 0.5 + 0.25 * config.seed, "accuracy": 0.25, "cider": 2.0}
        found = {name: values for name in runnable_evals(config, model_config(config))}
        (workdir / "eval/4.json").write_text(json.dumps(found))
        seconds = 0.2 if config.loss.captioning.weight else 0.1
        lines = [{"step": i, "train/loss": 1.0, "train/step_seconds": seconds} for i in (2, 3, 4)]
        lines[0]["train/step_seconds"] = 99.0  # with what a first step has to do
        lines[-1]["train/memory_gib"] = 0.5
        seen = 8 * config.train.steps
        cost = 5 if config.loss.captioning.weight else 3
        lines[-1] |= {"train/examples_seen": seen, "train/flops_seen": cost * seen}
        lines[-1]["step"] = config.train.steps
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_all_rows_of_a_seed_and_all_stages_in_their_order(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    found = compare.compare(make_config(), tmp_path, 5.0)
    assert trained.starts == [5.0] + 7 * [None]  # later stages start when they are begun
    assert [str(path.relative_to(tmp_path)) for path in trained.calls] == [
        f"{row}/{seed}/{stage}"
        for seed in (0, 1)
        for row in ("contrastive", "coca")
        for stage in ("first", "again")
    ]
    assert found["tables"] == {"objectives": ["contrastive", "coca"]}
    assert list(found["steps"]) == ["first", "again"]
    values = found["rows"]["contrastive"]["seeds"]["1"]
    assert values["zero-shot"] == 0.75 and values["VQA"] == 0.25 and values["CIDEr"] is None
    assert values["step_seconds"] == 0.1 and values["memory_gib"] == 0.5
    assert values["steps"] == found["steps"] == {"first": 4, "again": 4}
    assert values["flops"] == 3 and values["training_flops"] == 3 * 32
    assert found["rows"]["coca"]["seeds"]["1"]["flops"] == 5
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert stored == json.loads(json.dumps(found))


def test_a_stopped_comparison_has_what_it_came_to_and_goes_on(tmp_path, monkeypatch):
    Trained(monkeypatch, stop_at=5)
    with pytest.raises(Preempted):
        compare.compare(make_config(), tmp_path)
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert {name: list(row["seeds"]) for name, row in stored["rows"].items()} == {
        "contrastive": ["0"],
        "coca": ["0"],
    }
    Trained(monkeypatch)
    found = compare.compare(make_config(), tmp_path)
    assert list(found["rows"]["coca"]["seeds"]) == ["0", "1"]


def test_parts_train_every_run_once_and_each_tells_of_all(tmp_path, monkeypatch):
    trained, rows = Trained(monkeypatch), (*ROWS, ("slow", (("first.train.batch_size", 8),)))
    config, seen = make_config(rows), {}
    assert compare.compare(config, tmp_path, shard=(0, 4))["tables"] == {}
    for k in (3, 1, 4, 2):
        begin = len(trained.calls)
        found = compare.compare(config, tmp_path, shard=(k, 4))
        calls = [str(path.relative_to(tmp_path).parent) for path in trained.calls[begin:]]
        seen[k] = list(dict.fromkeys(calls))
    assert seen == {
        1: ["contrastive/0", "coca/1"],  # of three rows by two seeds: the first and the fifth
        2: ["coca/0", "slow/1"],
        3: ["slow/0"],
        4: ["contrastive/1"],
    }
    whole = compare.compare(config, tmp_path)
    assert whole == found == compare.compare(config, tmp_path, shard=(0, 1))
    assert len(trained.calls) == 12  # each stage once: what others have finished is left alone
    assert list(whole["rows"]) == ["contrastive", "coca", "slow"]
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(whole))


def test_parts_do_not_get_the_same_rows_of_every_seed(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compare.compare(make_config(), tmp_path, shard=(1, 2))
    calls = dict.fromkeys(str(path.relative_to(tmp_path).parent) for path in trained.calls)
    assert list(calls) == ["contrastive/0", "coca/1"]


def test_parts_need_steps(tmp_path):
    config = make_config()
    config.stages.first.train.epochs = 1.0
    with pytest.raises(UserError, match=r"stages\.first\.train\.epochs: --shard needs"):
        compare.compare(config, tmp_path, shard=(1, 2))


def test_what_was_trained_otherwise_is_not_in_the_tables(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compare.compare(make_config(), tmp_path)
    config = make_config()
    config.stages.first.optimizer.learning_rate = 0.5
    assert compare.compare(config, tmp_path, shard=(0, 1))["rows"] == {}
    (tmp_path / "coca/1/again/eval/4.json").unlink()  # still being evaluated
    found = compare.compare(make_config(), tmp_path, shard=(0, 1))
    assert list(found["rows"]["coca"]["seeds"]) == ["0"]
    (tmp_path / "coca/0/again/checkpoints/4/manifest.json").unlink()  # or still being saved
    assert "coca" not in compare.compare(make_config(), tmp_path, shard=(0, 1))["rows"]
    assert len(trained.calls) == 8


def test_what_was_trained_for_more_steps_is_not_in_the_tables(tmp_path, monkeypatch):
    Trained(monkeypatch)  # leaves a checkpoint and results of step 4
    config = make_config()
    config.stages.first.train.steps = 9
    compare.compare(config, tmp_path)
    assert compare.compare(make_config(), tmp_path, shard=(0, 1))["rows"] == {}


def test_a_metric_that_an_evaluation_has_not(tmp_path, monkeypatch):
    Trained(monkeypatch)
    config = make_config()
    config.metrics = (("CIDEr", "first", "captioning/cidr"),)
    with pytest.raises(
        UserError, match=r"metrics: 'captioning/cidr': captioning has accuracy, cid"
    ):
        compare.compare(config, tmp_path)


def test_a_metric_that_some_runs_have_not(tmp_path, monkeypatch):
    Trained(monkeypatch)
    config = make_config()
    compare.compare(config, tmp_path)
    file = tmp_path / "coca/0/first/eval/4.json"
    found = json.loads(file.read_text())
    del found["captioning"]["cider"]  # as METEOR, where there is no Java
    file.write_text(json.dumps(found))
    seeds = compare.compare(config, tmp_path)["rows"]["coca"]["seeds"]
    assert (seeds["0"]["CIDEr"], seeds["1"]["CIDEr"]) == (None, 2.0)


def test_an_evaluation_that_comes_later_is_made_up(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compare.compare(make_config(), tmp_path)
    done = len(trained.calls)
    config = make_config()
    config.stages.again.eval.captioning = config.stages.first.eval.captioning
    compare.compare(config, tmp_path)
    assert len(trained.calls) == 2 * done  # each run, whose training knows what is left to do


def test_printed_numbers_are_means_and_deviations(tmp_path, monkeypatch):
    Trained(monkeypatch)
    lines = format_sweep(compare.compare(make_config(), tmp_path)).splitlines()
    assert (
        " ".join(lines[0].split())
        == "objectives zero-shot CIDEr VQA step time memory step FLOPs training FLOPs"
    )
    contrastive, coca = lines[2].split(), lines[3].split()
    assert contrastive[:5] == ["contrastive", "0.625", "±0.177", "—", "0.250"]  # 0.5 and 0.75
    assert coca[:7] == ["coca", "0.625", "±0.177", "2.000", "±0.000", "0.250", "±0.000"]
    assert contrastive[6:8] == ["1.000", "±0.000"] and coca[7:9] == ["2.000", "±0.000"]


def test_rows_of_more_steps_cost_more(tmp_path, monkeypatch):
    Trained(monkeypatch)
    rows = (("coca", ()), ("longer", (("first.train.steps", 6),)))
    found = compare.compare(make_config(rows, seeds=(0,)), tmp_path)
    assert found["rows"]["longer"]["seeds"]["0"]["steps"] == {"first": 6, "again": 4}
    assert format_sweep(found).splitlines()[-1].split()[-3:] == ["1.000", "1.000", "1.500"]


def test_a_row_in_two_tables_is_trained_once():
    config = make_config(seeds=(0,))
    config.tables = (*config.tables, ("training", (("coca", ()), ("slow", (("seed", 3),)))))
    names = [run.name for run in planned_runs(config)]
    assert names == ["contrastive", "coca", "slow"]


def test_changes_are_of_one_stage_or_of_all(tmp_path):
    rows = (("row", (("first.train.steps", 7), ("model.text.width", 64))),)
    config = make_config(rows)
    first, again = stages_of(config, next(planned_runs(config)), tmp_path)
    assert (first.name, again.name) == ("first", "again")
    assert (first.config.train.steps, again.config.train.steps) == (7, 4)
    assert first.config.model.text.width == again.config.model.text.width == 64
    assert again.config.init.path == str(first.workdir)
    assert again.config.data.tokenizer.path == str(first.workdir / "tokenizer.model")
    assert config.stages.first.train.steps == 4  # what was given is left as it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"config.seeds=\(\) should be different seeds"),
        ({"tables": (("t", (("a/b", ()),)),)}, "is that of a folder"),
        ({"tables": (("t", (("a", (("loss.weight", 1.0),)),)),)}, "no key 'loss.weight'"),
        (
            {"tables": (("t", (("a", (("train.steps", 0),)),)),)},
            "a, first: config.train.steps=0 should be a whole number",
        ),
        ({"tables": (("t", (("a", (("train.steps", "x"),)),)),)}, "a: train.steps='x': "),
        ({"tables": (("t", (("a", ("train.steps", 0)),)),)}, r"t\.a: .* should be rows of"),
        ({"tables": (("t", ("a", ())),)}, r"config\.tables\.t: 'a' should be \(name, changes\)"),
        ({"tables": (("t", (("a", None),)),)}, r"t\.a: None should be rows of"),
        ({"tables": (("t", 3),)}, r"config\.tables: \('t', 3\) should be \(title, rows\)"),
        ({"tables": ("t", ())}, r"config\.tables: 't' should be \(title, rows\)"),
        (
            {"tables": (("t", (("a", ()),)), ("u", (("a", (("seed", 3),)),)))},
            "another table has a row of this name",
        ),
        (
            {"tables": (("t", (("a", (("eval.vqa.limit", 3),)),)),)},
            r"t\.a: not all stages have a key 'eval\.vqa\.limit'; write again\.eval\.vqa\.limit",
        ),
        (
            {"tables": (("t", (("a", (("again.eval.zero_shot.limit", 3),)),)),)},
            r"there is no key 'again\.eval\.zero_shot\.limit'",
        ),
        ({"tables": (("t", (("a", ()),)), ("t", (("b", ()),)))}, "several have the title 't'"),
        ({"metrics": (("x", "again", "vqa/accuracy"),) * 2}, "several have the title 'x'"),
        (
            {"metrics": (("steps", "again", "vqa/accuracy"),)},
            "'steps' is the name of",
        ),
        ({"metrics": (("memory", "again", "vqa/accuracy"),)}, "'memory' is the name of"),
        ({"metrics": (("x", "third", "vqa/accuracy"),)}, "none of the stages again, first"),
        ({"metrics": (("x", "again", "cider"),)}, "names none of the evaluations vqa"),
        ({"more": 1}, "config.more is unknown"),
        ({"seeds": (0, 2**32)}, r"seeds=\(0, 4294967296\) should be different seeds, each a whole"),
        ({"seeds": (1, 1)}, r"config.seeds=\(1, 1\) should be different seeds"),
        ({"metrics": (1,)}, r"config.metrics=\(1,\) should be rows \(title, stage, "),
        ({"tables": ()}, r"config.tables=\(\) should be rows, at least one"),
        ({"stages": {}}, "config.stages={} should be a section of stages"),
        ({"stages": {"a": {"seed": 1}}}, "a: config.optimizer is missing"),
    ],
)
def test_errors_are_reported_before_anything_is_trained(change, message, tmp_path):
    config = make_config()
    config.update(change)
    for key, value in change.items():
        config[key] = value
    with pytest.raises(UserError, match=message):
        compare.compare(config, tmp_path)


def test_stages_that_start_from_each_other():
    config = make_config()
    config.stages.first.init.path = "again"
    with pytest.raises(UserError, match="again, first start from each other"):
        sweep_errors(config)


def test_a_real_row_is_fine_tuned_from_its_own_pretraining(
    prepared, tmp_path, capsys, programs_once
):
    """Both stages train the same, so that their step is compiled once."""
    config = make_config(ROWS[:1], seeds=(5,))
    first = config.stages.first
    first.update_from_flattened_dict({"data.dir": prepared, "mesh.data": 1})
    first.update_from_flattened_dict({"train.steps": 2, "train.log_every": 1})
    first.optimizer.warmup_steps = 1
    first.eval = {"zero_shot": first.eval.zero_shot.to_dict() | {"limit": 16}}
    config.stages.again = ConfigDict(first.to_dict())
    config.stages.again.init.path = "first"
    config.tables = (("objectives", (("contrastive", (("loss.captioning.weight", 0.0),)),)),)
    config.metrics = [(stage, stage, "zero_shot/top1") for stage in ("first", "again")]
    found = compare.compare(config, tmp_path)
    values = found["rows"]["contrastive"]["seeds"]["5"]
    assert 0 <= values["first"] <= 1 and 0 <= values["again"] <= 1
    assert values["step_seconds"] > 0 and values["memory_gib"] > 0
    folder = tmp_path / "contrastive/5"
    assert read_config(folder / "first").seed == 5
    assert f"starts from  {folder / 'first'}" in capsys.readouterr().out
    assert compare.compare(config, tmp_path) == found  # finished: only looked at
    assert "starts from" not in capsys.readouterr().out


def test_two_processes_write_the_tables_and_leave_each_other(tmp_path):
    # `processes.shutdown` leaves out the interpreter's own end, which can hang on collectives.
    (tmp_path / "sitecustomize.py").write_text("import atexit; atexit.register(print, 'ended')")
    launch = [sys.executable, ROOT / "launch/local.py", "--processes=2"]
    command = ["compare", f"--config={CONFIG}:smoke", f"--workdir={tmp_path}", "--shard=0/1"]
    done = subprocess.run(
        [*launch, "--", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "compare.json").read_text())["rows"] == {}
    assert (tmp_path / "report.html").exists()
    texts = [(tmp_path / f"logs/process_{i}.log").read_text() for i in (0, 1)]
    assert texts[0].splitlines()[-1].endswith("report.html") and texts[1] == "", texts
