"""Runs that go on to another length: their schedule, by NumPy, and what is said of it."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from small_run import STEPS, losses, make_config

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import build, default_config, to_json, write_config
from coca_jax.errors import UserError
from coca_jax.observe.writers import read_metrics
from coca_jax.train import experiment, loop, resume
from coca_jax.train.length import length_changes

pytestmark = pytest.mark.usefixtures("compiled_once", "programs_once")
PEAK, WARMUP = 0.5, 10


def rate(schedule, steps, count):
    """The learning rate of the update number `count`, from 0 on, in float64."""
    if count < WARMUP:
        return PEAK * count / WARMUP
    done = min(1, (count - WARMUP) / (steps - WARMUP))
    return {
        "linear": PEAK * (1 - done),
        "cosine": PEAK * (1 + np.cos(np.pi * done)) / 2,
        "rsqrt": PEAK * np.sqrt(WARMUP / count),
        "constant": PEAK,
    }[schedule]


def configured(schedule, steps):
    config = default_config()
    config.optimizer.update(schedule=schedule, learning_rate=PEAK, warmup_steps=WARMUP)
    config.train.steps = steps
    return config


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rsqrt", "constant"])
@pytest.mark.parametrize(
    ("before", "step", "after"), [(100, 100, 250), (100, 60, 300), (200, 60, 80)]
)
def test_the_line_has_the_learning_rates(schedule, before, step, after):
    stored, lines = {"config": to_json(configured(schedule, before))}, []
    changes = length_changes(stored, step, build(configured(schedule, after)), lines.append)
    assert changes == [{"step": step, "from": before, "to": after}]
    [line] = lines
    verb = "extended" if after > before else "shortened"
    assert line.startswith(f"{verb} from {before} to {after} steps at step {step}: the {schedule}")
    if schedule in ("rsqrt", "constant"):
        numbers, expected = re.findall(r"learning rate ([\d.]+)$", line), [(after, step)]
    else:
        pattern = rf"jumps: (.*) at step {step}, (.*) at step {step + 1} \(before: (.*)\)$"
        numbers = re.search(pattern, line).groups()
        expected = [(before, step - 1), (after, step), (before, step)]
    by_numpy = [rate(schedule, *one) for one in expected]
    np.testing.assert_allclose([float(n) for n in numbers], by_numpy, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        ("cosine", "is now that of 250 steps, and the learning rate, 0.2 at step 5 as before, di"),
        ("linear", "is now that of 250 steps, and the learning rate, 0.2 at step 5 as before, di"),
        ("rsqrt", "goes on, learning rate 0.2"),
    ],
)
def test_a_change_within_the_warm_up_tells_of_what_follows(schedule, end):
    stored, lines = {"config": to_json(configured(schedule, 100))}, []
    length_changes(stored, 4, build(configured(schedule, 250)), lines.append)
    assert f"the {schedule} schedule {end}" in lines[0]


def test_changes_are_kept_and_the_same_length_is_none():
    earlier = [{"step": 3, "from": 5, "to": 100}]
    stored = {"config": to_json(configured("linear", 100)), "length_changes": earlier}
    config = build(configured("linear", 100))
    assert length_changes(stored, 60, config, pytest.fail) == earlier
    assert length_changes({"config": 5}, 60, config, pytest.fail) == []
    longer = length_changes(stored, 60, build(configured("linear", 120)), lambda line: None)
    assert longer == [*earlier, {"step": 60, "from": 100, "to": 120}]


@pytest.fixture(scope="module")
def extended(small_run, prepared, tmp_path_factory):
    """The workdirs of a run that was extended from 3 steps, and of one that was not."""
    workdir = tmp_path_factory.mktemp("extended") / "run"
    for steps in (3, STEPS):
        loop.train(make_config(prepared, (), **{"train.steps": steps}), workdir)
    return workdir, small_run


def test_rsqrt_extended_is_a_run_of_that_length_to_the_bit(extended):
    in_two, at_once = extended
    assert losses(in_two) == losses(at_once) and list(losses(in_two)) == [1, 2, 3, 4, 5, 6]
    restored = []
    for workdir in extended:
        with CheckpointStore(workdir / "checkpoints") as store:
            assert store.latest_valid() == STEPS
            items = {name: store.shapes(STEPS, name) for name in ("params", "optimizer", "ema")}
            restored.append(store.restore(STEPS, _nested(items)))
    jax.tree.map(np.testing.assert_array_equal, *restored)
    rates = [r["train/learning_rate"] for r in read_metrics(in_two) if "train/learning_rate" in r]
    by_numpy = 1e-3 * np.array([0, 0.5, *(np.sqrt(2 / count) for count in (2, 3, 4, 5))])
    np.testing.assert_allclose(rates, by_numpy, rtol=1e-6)


def test_what_an_extended_run_was_is_on_record(extended):
    workdir, _ = extended
    change = {"step": 3, "from": 3, "to": STEPS}
    for step, changes in ((3, []), (4, [change]), (STEPS, [change])):
        stored = json.loads((workdir / f"checkpoints/{step}/metadata.json").read_text())
        assert stored["length_changes"] == changes
    assert json.loads((workdir / "config.json").read_text())["config"]["train"]["steps"] == STEPS


def test_a_linear_run_goes_on_with_its_optimizer_and_another_rate(
    small_run, prepared, tmp_path, capsys
):
    workdir = shutil.copytree(small_run, tmp_path / "run")
    linear = {"optimizer.schedule": "linear"}
    config = make_config(prepared, **linear, **{"train.steps": 3 * STEPS})
    built = experiment.build(config, workdir)
    peak, warmup = built.config.optimizer.learning_rate, built.config.optimizer.warmup_steps
    counts = np.arange(STEPS, 3 * STEPS)
    falling = peak * (1 - (counts - warmup) / (3 * STEPS - warmup))
    np.testing.assert_allclose(jax.vmap(built.program.factory.schedule)(counts), falling, rtol=1e-5)
    # The length in epochs, of 60 examples in batches of 16.
    epochs = make_config(prepared, **linear, **{"train.epochs": 4.8})
    assert to_json(experiment.build(epochs, workdir).config) == to_json(built.config)
    write_config(workdir, built.config)  # what a process that was killed right now would leave
    with CheckpointStore(workdir / "checkpoints") as store:
        assert resume.find_step(built, store) == STEPS
        assert resume.history(built, store, STEPS)["length_changes"] == [
            {"step": STEPS, "from": STEPS, "to": 3 * STEPS}
        ]
        state = resume.make_state(built, store, STEPS)
        items = {"optimizer": store.shapes(STEPS, "optimizer")}
        stored = store.restore(STEPS, _nested(items))
    leaves = [jax.tree.leaves(tree) for tree in (state.optimizer, stored["optimizer"])]
    assert len(leaves[0]) == len(leaves[1]) > 0 and int(state.step) == STEPS
    by_bytes = [sorted(np.asarray(leaf).tobytes() for leaf in tree) for tree in leaves]
    assert by_bytes[0] == by_bytes[1]
    assert f"extended from {STEPS} to {3 * STEPS} steps at step {STEPS}" in capsys.readouterr().out


def test_fewer_steps_than_are_done_change_nothing(small_run, prepared):
    before = (small_run / "config.json").read_text()
    with pytest.raises(UserError, match=r"train.steps=5: the run has done 6 of 6 steps"):
        loop.train(make_config(prepared, **{"train.steps": 5}), small_run)
    assert (small_run / "config.json").read_text() == before


def _nested(items):
    """The shapes of items by path as trees."""
    trees = {}
    for name, shapes in items.items():
        for path, shape in shapes.items():
            *parents, leaf = [name, *path.split("/")]
            node = trees
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = shape
    return trees
