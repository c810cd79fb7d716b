"""Whole runs of a shrunk `configs/shapes.py`: what they write, and how they go on."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import broken_data
import jax
import numpy as np
import pytest
import quiet_config
from small_run import ROOT, SMALL, STEPS, losses, make_config

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import model_config
from coca_jax.data.errors import ERROR_KINDS
from coca_jax.errors import NotFinite, Preempted, UserError
from coca_jax.evaluate import runner
from coca_jax.evaluate.zero_shot import ZeroShot
from coca_jax.inference import find_checkpoint
from coca_jax.io.locks import locked
from coca_jax.observe.progress import Progress
from coca_jax.observe.recorder import Recorder
from coca_jax.observe.writers import read_metrics
from coca_jax.planning import training_flops
from coca_jax.train import experiment, loop, resume
from coca_jax.train.evaluation import Evaluator

# All runs but one have one device.
pytestmark = pytest.mark.usefixtures("compiled_once", "programs_once")


@pytest.fixture(scope="module")
def whole(small_run):
    """The workdir of a run that nothing interrupted."""
    return small_run


def interrupt(monkeypatch, at, number=signal.SIGTERM):
    """Makes the next run of this process be sent a signal while it is at step `at`."""
    update = Progress.update

    def send(self, step, metrics=None):
        if step == at:
            os.kill(os.getpid(), number)
        update(self, step, metrics)

    monkeypatch.setattr(Progress, "update", send)


def test_a_run_writes_what_the_contract_says(whole, prepared):
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["train"]["steps"] == STEPS
    assert record["versions"].keys() >= {"coca_jax", "jax", "flax"}
    assert (whole / "tokenizer.model").is_file()
    assert any((whole / "tensorboard").iterdir())
    assert sorted(int(p.name) for p in (whole / "checkpoints").iterdir()) == [2, 4, 6]
    results = json.loads((whole / f"eval/{STEPS}.json").read_text())
    assert results["zero_shot"].keys() >= {"top1", "top5"}
    records = read_metrics(whole)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6, 6]
    train = records[0]
    assert train["train/examples_seen"] == 16
    flops = training_flops(model_config(make_config(prepared)))
    assert train["train/flops_seen"] == 16 * flops
    assert train.keys() >= {"train/mfu", "train/examples_per_second", "train/bad_image"}
    assert records[-1]["eval/zero_shot/top1"] == results["zero_shot"]["top1"]


def test_building_an_experiment_writes_nothing(prepared, tmp_path):
    built = experiment.build(make_config(prepared), tmp_path / "run")
    assert built.steps == STEPS and built.examples_seen(2) == 32
    assert not any(tmp_path.iterdir())


def test_a_finished_run_is_left_alone(whole, prepared, capsys):
    before = (whole / "metrics.jsonl").read_text()
    loop.train(make_config(prepared), whole)
    assert "trained to its last step, 6" in capsys.readouterr().out
    assert (whole / "metrics.jsonl").read_text() == before


def test_a_run_that_another_process_trains_is_refused(whole, prepared, monkeypatch):
    monkeypatch.setattr(loop, "LOCK_TIMEOUT_S", 0.0)
    before = (whole / "config.json").read_text()
    refused = pytest.raises(UserError, match="small/run is being trained by process")
    with locked(whole, "trained"), refused:
        loop.train(make_config(prepared, **{"train.log_every": 2}), whole)
    assert (whole / "config.json").read_text() == before
    with locked(whole, "tested"):  # the one that was refused holds nothing
        pass


def test_a_run_whose_data_changed_goes_on_only_if_that_is_allowed(
    whole, prepared, tmp_path, monkeypatch
):
    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints/6")
    saved = json.loads((workdir / "checkpoints/4/metadata.json").read_text())
    [(name, shards)] = saved["data"].items()
    file = shards[0][0]
    assert name == "data.train" and file.startswith("shapes-train.array_record")
    monkeypatch.setattr(experiment, "fingerprint", lambda *_: {name: []})
    with pytest.raises(UserError, match=f"since step 4 was saved(.|\n)*removed: {file}"):
        loop.train(make_config(prepared), workdir)
    loop.train(make_config(prepared, (), **{"data.allow_changes": True}), workdir)
    saved = json.loads((workdir / "checkpoints/6/metadata.json").read_text())
    assert saved["data"] == {name: []} and [c["step"] for c in saved["data_changes"]] == [4]


def test_evaluations_that_come_later_are_made_up_without_the_others(whole, prepared, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    results = tmp_path / f"run/eval/{STEPS}.json"
    kept = json.loads(results.read_text()) | {"zero_shot": {"top1": 0.125}}  # left as it is
    results.write_text(json.dumps(kept))
    loop.train(make_config(prepared, ("zero_shot", "retrieval")), tmp_path / "run")
    found = json.loads(results.read_text())
    assert found.keys() == {"zero_shot", "retrieval"} and found["zero_shot"] == {"top1": 0.125}
    last = read_metrics(tmp_path / "run")[-1]
    assert {key.split("/")[1] for key in last if key.startswith("eval/")} == {"retrieval"}
    loop.train(make_config(prepared, ("zero_shot", "retrieval")), tmp_path / "run")
    assert read_metrics(tmp_path / "run")[-1] == last


def test_an_interrupted_run_goes_on_to_the_bit(whole, prepared, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, at=3, number=signal.SIGINT)
        with pytest.raises(Preempted, match="after saving step 4"):
            loop.train(make_config(prepared, ()), tmp_path)
    assert list(losses(tmp_path)) == [1, 2, 3, 4]
    loop.train(make_config(prepared, ()), tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_a_run_goes_on_on_another_mesh(whole, prepared):
    """With the stored state, and the batch that one device would get.

    That a step on it is that of one device, `step_test` makes sure.
    """
    found = {}
    with CheckpointStore(whole / "checkpoints") as store:
        for sizes in ((1, 1, 1), (2, 2, 2)):
            changes = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), sizes, strict=True))
            built = experiment.build(make_config(prepared, **changes), whole)
            state = resume.make_state(built, store, 4)
            assert jax.tree.map(lambda x: x.sharding, state) == built.program.factory.shardings
            batch = next(built.stream.batches(built.examples_seen(4)))
            found[sizes] = jax.device_get((state, built.program.partitioner.put_batch(batch)))
    one, many = found.values()
    jax.tree.map(np.testing.assert_array_equal, many, one)
    assert one[0].step == 4 and len(one[1]["text"]) == 16


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(whole, prepared, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    files = [p for p in (tmp_path / "run/checkpoints/6").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    loop.train(make_config(prepared, ()), tmp_path / "run")
    out, err = capsys.readouterr()
    assert "checkpoints/6 is not valid" in err
    assert "resumed at step 4" in out
    assert losses(tmp_path / "run") == losses(whole)


def test_a_run_stopped_at_its_last_step_makes_up_its_evaluation(
    whole, prepared, tmp_path, monkeypatch
):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/6")
    shutil.rmtree(tmp_path / "run/eval")
    with monkeypatch.context() as patch:
        interrupt(patch, at=5)
        with pytest.raises(Preempted, match="after saving step 6"):
            loop.train(make_config(prepared), tmp_path / "run")
    assert not (tmp_path / "run/eval").exists()
    loop.train(make_config(prepared), tmp_path / "run")
    results = (tmp_path / f"run/eval/{STEPS}.json").read_text()
    assert results == (whole / f"eval/{STEPS}.json").read_text()
    assert "eval/zero_shot/top1" in read_metrics(tmp_path / "run")[-1]


def test_a_stop_during_evaluations_saves_and_leaves_the_rest_to_the_next_attempt(
    whole, prepared, tmp_path, monkeypatch
):
    changes = {"train.evaluate_every": 3, "train.log_every": 4}
    config = make_config(prepared, ("retrieval", "zero_shot_novel"), **changes)
    evaluate = ZeroShot.run

    def run(*arguments):  # the second of them, on data of its own
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ZeroShot, "run", run)
        with pytest.raises(Preempted, match="by SIGTERM after saving step 3"):
            loop.train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    first = json.loads((tmp_path / "eval/3.json").read_text())
    assert first.keys() == {"retrieval"}
    loop.train(config, tmp_path)
    # Saves and evaluations are log points, too.
    assert losses(tmp_path) == {step: losses(whole)[step] for step in (2, 3, 4, 6)}
    both = json.loads((tmp_path / "eval/3.json").read_text())
    assert both.keys() == {"zero_shot_novel", "retrieval"}
    assert both["retrieval"] == first["retrieval"]


def test_no_valid_checkpoint_is_not_a_new_run(whole, prepared, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("*/layout.json"):
        file.write_text("{}")
    with pytest.raises(UserError, match=r"none of the checkpoints .* is valid"):
        loop.train(make_config(prepared), tmp_path / "run")
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]


def test_another_tokenizer_is_refused(whole, prepared, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/tokenizer.model").write_bytes(b"another")
    with pytest.raises(
        UserError, match=r"tokenizer.model is not the file that step 6 was trained with"
    ):
        loop.train(make_config(prepared), tmp_path / "run")


def test_a_checkpoint_without_its_config_is_compared_by_its_own(whole, prepared, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(UserError, match=r"config\.seed: 0 there, 1 now"):
        loop.train(make_config(prepared, seed=1), tmp_path / "run")


def test_a_run_leaves_out_evaluations_of_what_it_does_not_train(
    prepared, tmp_path, capsys, monkeypatch
):
    config = make_config(prepared, ("zero_shot", "captioning"), **{"loss.captioning.weight": 0.0})
    built = experiment.build(config, tmp_path)
    evaluator = Evaluator(built)
    monkeypatch.setattr(
        runner,
        "run_evaluations",
        lambda model, evaluations, *_: runner.EvalResults(
            {name: {"top1": 0.5} for name in evaluations}, {name: {} for name in evaluations}, {}
        ),
    )
    assert list(evaluator.missing(3)) == ["zero_shot"]
    config.checkpoint.keep_best = "zero_shot/top3"
    with (
        Recorder(tmp_path, 3, 3, silent=False) as recorder,
        pytest.raises(UserError, match=r"keep_best=zero_shot/top3: .* are top1; the"),
    ):
        evaluator.run(3, built.program.factory.abstract, recorder)
    assert read_metrics(tmp_path)[-1]["eval/zero_shot/top1"] == 0.5
    silent = Recorder(tmp_path, 3, 3, silent=True)
    config.checkpoint.keep_best = ""
    metrics = evaluator.run(3, built.program.factory.abstract, silent)
    assert metrics == {"eval/zero_shot/top1": 0.5}
    assert list(evaluator.missing(3)) == []
    config.eval.zero_shot.limit = 1
    assert list(evaluator.missing(3)) == ["zero_shot"]  # the results are of other options
    assert "eval.captioning is left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "eval/3.json").read_text()).keys() == {"zero_shot"}


def test_the_best_checkpoint_outlives_the_newest_and_an_interruption(
    prepared, tmp_path, capsys, monkeypatch
):
    planned = iter([0.3, 0.1, 0.9, 0.5])

    def run_evaluations(*_):
        return runner.EvalResults({"zero_shot": {"top1": next(planned)}}, {"zero_shot": {}}, {})

    monkeypatch.setattr(runner, "run_evaluations", run_evaluations)
    best = {"checkpoint.keep_best": "zero_shot/top1", "checkpoint.best_mode": "max"}
    changes = {"checkpoint.keep": 1, "checkpoint.every": 1, "train.evaluate_every": 1}
    config = make_config(prepared, **changes, **best, **{"train.steps": 4})
    with monkeypatch.context() as patch:
        interrupt(patch, at=2)
        with pytest.raises(Preempted, match="after saving step 3"):
            loop.train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]
    loop.train(config, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    said = "best checkpoint: step 3, zero_shot/top1 0.9 (max)"
    assert capsys.readouterr().out.count(said) == 1
    for path, step in ((tmp_path / "checkpoints/best", None), (tmp_path, "best")):
        assert find_checkpoint(path, step).step == 3
    shutil.rmtree(tmp_path / "eval")
    with pytest.raises(UserError, match=r"no checkpoint in .* has a value of zero_shot/top1"):
        find_checkpoint(tmp_path, "best")


def test_a_best_checkpoint_by_what_is_not_trained_is_refused(prepared, tmp_path):
    changes = {"checkpoint.keep_best": "captioning/cider", "checkpoint.best_mode": "max"}
    changes |= {"train.evaluate_every": 2, "loss.captioning.weight": 0.0}
    config = make_config(prepared, ("zero_shot", "captioning"), **changes)
    with pytest.raises(UserError, match=r"keep_best=captioning/cider: the model is not trained"):
        experiment.build(config, tmp_path)


def test_a_run_without_a_best_checkpoint_says_so(whole):
    with pytest.raises(UserError, match=r"keep_best is empty; coca checkpoints lists"):
        find_checkpoint(whole / "checkpoints/best")


def test_broken_data_are_counted_and_too_many_stop_the_run(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = broken_data.write(tmp_path)
    train = {
        "data.train.format": "webdataset",
        "data.train.path": path,
        "data.train.captions": "all",
    }
    changes = {"train.steps": 8, "train.epochs": 1.6, "data.tokenizer.kind": "byte"}
    config = make_config(prepared, (), **train, **changes)
    config.data.max_bad_share = 0.6
    loop.train(config, tmp_path / "a")
    metrics = read_metrics(tmp_path / "a")
    assert metrics[-1]["step"] == STEPS  # 1.6 of 58 examples, in batches of 16
    counts = {kind: sum(line[f"train/{kind}"] for line in metrics) for kind in ERROR_KINDS}
    assert counts["bad_image"] and counts["bad_text"]
    config.data.max_bad_share = 0.02
    with pytest.raises(
        UserError, match=r"drawn were bad .*=0.02 are allowed.* most were in .*broken"
    ):
        loop.train(config, tmp_path / "b")


def test_another_configuration_is_refused_with_its_differences(whole, prepared):
    config = make_config(prepared, **{"seed": 1, "optimizer.learning_rate": 0.5, "mesh.data": 2})
    with pytest.raises(UserError) as caught:
        loop.train(config, whole)
    text = str(caught.value)
    assert "config.seed: 0 there, 1 now" in text
    assert "config.optimizer.learning_rate: 0.001 there, 0.5 now" in text
    assert "mesh" not in text


def test_a_loss_that_is_not_finite_names_step_and_parts(prepared, tmp_path, monkeypatch):
    make_state = resume.make_state

    def too_large(*args):
        state = make_state(*args)
        return state.replace(params=jax.tree.map(lambda x: x * 1e38, state.params))

    monkeypatch.setattr(resume, "make_state", too_large)
    changes = {"train.log_every": 100, "train.evaluate_every": 1}
    with pytest.raises(
        NotFinite, match=r"step 1 is not finite: .*(loss|param_norm).*last checkpoint"
    ):
        loop.train(make_config(prepared, **changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.text.vocab_size": 8}, "config.model.text.vocab_size=8"),
        ({"optimizer.warmup_steps": 6}, "config.optimizer.warmup_steps=6 should be less than"),
        ({"data.train.name": "absent"}, "data set 'absent' is not prepared"),
        (
            {"eval.zero_shot.kind": "guessing"},
            "config.eval.zero_shot.kind='guessing' should be one of zero_shot",
        ),
        ({"eval.zero_shot.split": "tset"}, "config.eval.zero_shot: .* has no split 'tset'"),
        (
            {"train.batch_size": 15, "mesh.data": 8},
            "config.train.batch_size=15: should be divisible by 8",
        ),
    ],
)
def test_errors_are_reported_before_anything_is_made(prepared, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        loop.train(make_config(prepared, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def command_of(prepared, workdir, *more):
    """Trains as the whole run, without its evaluation."""
    flags = [f"--config.{key}={value}" for key, value in SMALL.items()]
    command = [sys.executable, "-m", "coca_jax", "train", "--config"]
    command += [quiet_config.write(workdir.parent), "--workdir", str(workdir)]
    return [*command, f"--config.data.dir={prepared}", *flags, *more]


def test_a_real_process_saves_and_exits_with_3_then_goes_on(whole, prepared, tmp_path):
    # Without a checkpoint every other step, what is saved is due to the signal.
    command = command_of(prepared, tmp_path / "run", "--config.checkpoint.every=1000")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 3, stderr
    assert "stopped by SIGTERM after saving step" in stderr
    assert "Traceback" not in stderr
    loop.train(make_config(prepared, ()), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)


def test_a_full_disk_costs_neither_the_last_good_checkpoint_nor_a_traceback(
    whole, prepared, tmp_path, capfd
):
    """Files may not grow beyond a limit that checkpoints of this model exceed."""
    workdir = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints/6")
    files = [p for p in (workdir / "checkpoints/4").rglob("*") if p.is_file()]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(file.stat().st_size for file in files)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"6 could not be saved \(.*; the last good one is step 4"
        ):
            loop.train(make_config(prepared, ()), workdir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    # What was written of step 6 may still be there, under a name that no checkpoint has.
    steps = [name for name in os.listdir(workdir / "checkpoints") if name.isdecimal()]
    assert sorted(steps) == ["2", "4"]
    loop.train(make_config(prepared, ()), workdir)
    assert losses(workdir) == losses(whole)


@pytest.mark.slow
def test_a_run_of_several_lengths_goes_on_to_the_bit_and_is_evaluated(
    prepared, tmp_path, monkeypatch
):
    lengths = {"model.image.sequence_lengths": (64, 16), "train.batch_size": 8}
    lengths |= {"loss.matching.weight": 1.0, "loss.matching.block_size": 4}
    config = make_config(prepared, ("zero_shot",), **lengths)
    with monkeypatch.context() as patch:
        interrupt(patch, at=3)
        with pytest.raises(Preempted, match="after saving step 4"):
            loop.train(config, tmp_path / "interrupted")
    loop.train(config, tmp_path / "interrupted")
    loop.train(config, tmp_path / "whole")
    assert losses(tmp_path / "interrupted") == losses(tmp_path / "whole")
    records = [r for r in read_metrics(tmp_path / "whole") if "train/loss" in r]
    memory = [r["train/memory_gib"] for r in records]  # of the length that takes most, so far
    assert memory == sorted(memory) and memory[0] > 0
    seen = [r["train/examples_seen"] for r in records]
    assert sorted(np.diff([0, *seen])[:2].tolist()) == [8, 32] and seen[5] == 3 * 40
    results = json.loads((tmp_path / f"whole/eval/{STEPS}.json").read_text())
    assert results["zero_shot"]["count"] > 0
