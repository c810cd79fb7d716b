"""Comparisons: what is trained in which order, how they go on, and what is made of the numbers."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from coca_jax.config import load_config, model_config, read_config, write_config
from coca_jax.errors import Incomplete, NotFinite, Preempted, UserError
from coca_jax.evaluate.runner import runnable_evals
from coca_jax.io.locks import locked
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


def compared(*args, **options):
    """The results of a comparison, none of whose runs ended early."""
    comparison = compare.compare(*args, **options)
    comparison.raise_failures()
    return comparison.results


def seeds_of(results):
    """The seeds of the rows that have any."""
    rows = results["rows"].items()
    return {name: list(row["seeds"]) for name, row in rows if row["seeds"]}


class Trained:
    """Stands for the training loop: leaves made-up results, and may be stopped at a call.

    A run whose folder is one of `diverging` ends early.
    """

    def __init__(self, monkeypatch, stop_at=None, diverging=()):
        self.calls, self.starts, self._stop_at, self._diverging = [], [], stop_at, diverging
        monkeypatch.setattr(compare, "train", self)

    def __call__(self, config, workdir, start_time, *, fixed_length):
        assert fixed_length  # rows that were extended would not compare
        if len(self.calls) == self._stop_at:
            raise Preempted("stopped by SIGTERM")
        if any(str(workdir).endswith(folder) for folder in self._diverging):
            raise NotFinite("step 3 is not finite: loss")
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
    found = compared(make_config(), tmp_path, 5.0)
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
        compared(make_config(), tmp_path)
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert seeds_of(stored) == {"contrastive": ["0"], "coca": ["0"]}
    Trained(monkeypatch)
    found = compared(make_config(), tmp_path)
    assert list(found["rows"]["coca"]["seeds"]) == ["0", "1"]


def test_parts_train_every_run_once_and_each_tells_of_all(tmp_path, monkeypatch):
    trained, rows = Trained(monkeypatch), (*ROWS, ("slow", (("first.train.batch_size", 8),)))
    config, seen = make_config(rows), {}
    assert seeds_of(compared(config, tmp_path, shard=(0, 4))) == {}
    for k in (3, 1, 4, 2):
        begin = len(trained.calls)
        found = compared(config, tmp_path, shard=(k, 4))
        calls = [str(path.relative_to(tmp_path).parent) for path in trained.calls[begin:]]
        seen[k] = list(dict.fromkeys(calls))
    assert seen == {
        1: ["contrastive/0", "coca/1"],  # of three rows by two seeds: the first and the fifth
        2: ["coca/0", "slow/1"],
        3: ["slow/0"],
        4: ["contrastive/1"],
    }
    whole = compared(config, tmp_path)
    assert whole == found == compared(config, tmp_path, shard=(0, 1))
    assert len(trained.calls) == 12  # each stage once: what others have finished is left alone
    assert list(whole["rows"]) == ["contrastive", "coca", "slow"]
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(whole))


def test_a_run_that_diverges_leaves_the_others_and_is_tried_again(tmp_path, monkeypatch, capsys):
    trained = Trained(monkeypatch, diverging=["contrastive/0/first", "coca/1/again"])
    found = compare.compare(make_config(), tmp_path, 5.0)
    assert seeds_of(found.results) == {"contrastive": ["1"], "coca": ["0"]}
    assert len(trained.calls) == 5 and 5.0 not in trained.starts
    failures = ["contrastive, seed 0, first", "coca, seed 1, again"]
    assert capsys.readouterr().err == "".join(
        f"warning: {failure} ended early: step 3 is not finite: loss\n" for failure in failures
    )
    message = f"2 runs ended early: {'; '.join(failures)}; the same command tries again"
    with pytest.raises(Incomplete, match=message):
        found.raise_failures()
    Trained(monkeypatch)
    assert seeds_of(compared(make_config(), tmp_path)) == {
        "contrastive": ["0", "1"],
        "coca": ["0", "1"],
    }


def test_costs_are_relative_to_the_first_row_of_the_table_though_it_comes_later(
    tmp_path, monkeypatch
):
    Trained(monkeypatch, diverging=["contrastive/0/first"])
    lines = format_sweep(compare.compare(make_config(seeds=(0,)), tmp_path).results).splitlines()
    assert lines[2].split() == ["contrastive", *7 * "—"]
    assert lines[3].split() == ["coca", "0.500", "2.000", "0.250", *4 * "—"]
    Trained(monkeypatch)
    lines = format_sweep(compared(make_config(seeds=(0,)), tmp_path)).splitlines()
    assert lines[3].split()[4] == "2.000"


def test_nobody_else_finishes_a_run_between_the_look_at_the_runs_and_the_writing(
    tmp_path, monkeypatch
):
    """Or the results would lack that run, though its shard has written them, too."""
    Trained(monkeypatch)
    seen = []

    def while_locked(name):
        function = getattr(compare, name)

        def checked(*args):
            with pytest.raises(UserError, match="is being written"), locked(tmp_path, "written"):
                pass
            seen.append(name)
            return function(*args)

        monkeypatch.setattr(compare, name, checked)

    names = ("_measured", "write_json", "write_report")
    for name in names:
        while_locked(name)
    compared(make_config(seeds=(0,)), tmp_path, shard=(1, 2))
    assert tuple(seen) == names


def test_the_results_are_written_once_a_run(tmp_path, monkeypatch):
    Trained(monkeypatch)
    written, write = [], compare.write_json
    monkeypatch.setattr(compare, "write_json", lambda *args: written.append(write(*args)))
    compared(make_config(), tmp_path)
    assert len(written) == 4
    assert (tmp_path / "report.html").exists()


def test_parts_do_not_get_the_same_rows_of_every_seed(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compared(make_config(), tmp_path, shard=(1, 2))
    calls = dict.fromkeys(str(path.relative_to(tmp_path).parent) for path in trained.calls)
    assert list(calls) == ["contrastive/0", "coca/1"]


def test_parts_need_steps(tmp_path):
    config = make_config()
    config.stages.first.train.epochs = 1.0
    with pytest.raises(UserError, match=r"stages\.first\.train\.epochs: --shard needs"):
        compared(config, tmp_path, shard=(1, 2))


def test_what_was_trained_otherwise_is_not_in_the_tables(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compared(make_config(), tmp_path)
    config = make_config()
    config.stages.first.optimizer.learning_rate = 0.5
    assert seeds_of(compared(config, tmp_path, shard=(0, 1))) == {}
    (tmp_path / "coca/1/again/eval/4.json").unlink()  # still being evaluated
    found = compared(make_config(), tmp_path, shard=(0, 1))
    assert list(found["rows"]["coca"]["seeds"]) == ["0"]
    (tmp_path / "coca/0/again/checkpoints/4/manifest.json").unlink()  # or still being saved
    assert "coca" not in seeds_of(compared(make_config(), tmp_path, shard=(0, 1)))
    assert len(trained.calls) == 8


def test_what_was_trained_for_more_steps_is_not_in_the_tables(tmp_path, monkeypatch):
    Trained(monkeypatch)  # leaves a checkpoint and results of step 4
    config = make_config()
    config.stages.first.train.steps = 9
    compared(config, tmp_path)
    assert seeds_of(compared(make_config(), tmp_path, shard=(0, 1))) == {}


def test_a_metric_that_an_evaluation_has_not(tmp_path, monkeypatch):
    Trained(monkeypatch)
    config = make_config()
    config.metrics = (("CIDEr", "first", "captioning/cidr"),)
    with pytest.raises(
        UserError, match=r"metrics: 'captioning/cidr': captioning has accuracy, cid"
    ):
        compared(config, tmp_path)


def test_a_metric_that_some_runs_have_not(tmp_path, monkeypatch):
    Trained(monkeypatch)
    config = make_config()
    compared(config, tmp_path)
    file = tmp_path / "coca/0/first/eval/4.json"
    found = json.loads(file.read_text())
    del found["captioning"]["cider"]  # as METEOR, where there is no Java
    file.write_text(json.dumps(found))
    seeds = compared(config, tmp_path)["rows"]["coca"]["seeds"]
    assert (seeds["0"]["CIDEr"], seeds["1"]["CIDEr"]) == (None, 2.0)


def test_an_evaluation_that_comes_later_is_made_up(tmp_path, monkeypatch):
    trained = Trained(monkeypatch)
    compared(make_config(), tmp_path)
    done = len(trained.calls)
    config = make_config()
    config.stages.again.eval.captioning = config.stages.first.eval.captioning
    compared(config, tmp_path)
    assert len(trained.calls) == 2 * done  # each run, whose training knows what is left to do


def test_printed_numbers_are_means_and_deviations(tmp_path, monkeypatch):
    Trained(monkeypatch)
    lines = format_sweep(compared(make_config(), tmp_path)).splitlines()
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
    found = compared(make_config(rows, seeds=(0,)), tmp_path)
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
        compared(config, tmp_path)


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
    found = compared(config, tmp_path)
    values = found["rows"]["contrastive"]["seeds"]["5"]
    assert 0 <= values["first"] <= 1 and 0 <= values["again"] <= 1
    assert values["step_seconds"] > 0 and values["memory_gib"] > 0
    folder = tmp_path / "contrastive/5"
    assert read_config(folder / "first").seed == 5
    assert f"starts from  {folder / 'first'}" in capsys.readouterr().out
    assert compared(config, tmp_path) == found  # finished: only looked at
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
    assert seeds_of(json.loads((tmp_path / "compare.json").read_text())) == {}
    assert (tmp_path / "report.html").exists()
    texts = [(tmp_path / f"logs/process_{i}.log").read_text() for i in (0, 1)]
    assert texts[0].splitlines()[-1].endswith("report.html"), texts
    assert "report.html" not in texts[1] and "ended" not in texts[0] + texts[1], texts
