"""The best checkpoint is kept next to the newest: by what is on disk, whatever stops a run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.best import Best
from coca_jax.config import default_config
from coca_jax.evaluate.results import write_results

ROOT = Path(__file__).resolve().parents[2]


def best_of(workdir, metric="held_out/loss", mode="min", options=None):
    return Best(workdir, metric, mode, options)


def evaluate(workdir, step, **metrics):
    (workdir / "eval").mkdir(parents=True, exist_ok=True)
    (workdir / f"eval/{step}.json").write_text(json.dumps({"held_out": metrics}))


def run(workdir, losses, keep=1, **options):
    """Saves and evaluates a step for each loss, as a run does, and returns the steps left."""
    with CheckpointStore(workdir / "checkpoints", keep, best_of(workdir, **options)) as store:
        for step, loss in losses.items():
            store.save(step, {"params": {"x": jnp.ones(3)}}, {})
            store.wait()
            if loss is not None:
                evaluate(workdir, step, loss=loss)
    return steps_in(workdir)


def steps_in(workdir):
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir())


def test_the_best_stays_next_to_the_newest(tmp_path):
    assert run(tmp_path / "a", {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.6}, keep=2) == [2, 4, 5]
    assert run(tmp_path / "b", {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5}, keep=2, mode="max") == [1, 3, 4]
    # One that is among the newest takes no place of its own; a better one takes over.
    assert run(tmp_path / "c", {1: 1.0, 2: 0.5, 3: 0.7, 4: 0.1, 5: 0.2}, keep=3) == [3, 4, 5]


def test_steps_without_the_metric_are_never_the_best(tmp_path):
    assert run(tmp_path, {1: None, 2: 9.0, 3: None, 4: None}) == [2, 4]
    assert best_of(tmp_path).step([1, 3, 4]) is None
    for number, content in enumerate(['{"held_out": {"loss": null}}', "{", "[]", '{"a": {}}']):
        (tmp_path / f"eval/{number}.json").write_text(content)
        assert best_of(tmp_path).value(number) is None
    assert best_of(tmp_path, metric="held_out/lost").value(2) is None


def test_the_first_of_equal_ones_is_the_best(tmp_path):
    for step in (1, 2, 3):
        evaluate(tmp_path, step, loss=0.5)
    assert best_of(tmp_path).step([3, 2, 1]) == best_of(tmp_path, mode="max").step([1, 2, 3]) == 1
    assert best_of(tmp_path).described(1) == "step 1, held_out/loss 0.5 (min)"


def test_values_of_other_options_are_not_compared(tmp_path):
    def measure(step, loss, name="held_out", **options):
        write_results(tmp_path, step, {name: {"loss": loss}}, {}, {name: options, "other": {}})

    some, every = (best_of(tmp_path, options={"limit": limit}) for limit in (100, 0))
    measure(1, 1.0, limit=100)
    measure(2, 0.9, limit=100)
    measure(2, 0.1, name="second", limit=0)  # another evaluation of a step changes nothing
    assert some.step([1, 2]) == 2 and every.step([1, 2]) is None
    measure(3, 1.3, limit=0)
    measure(4, 1.2, limit=0)
    measure(5, 0.1, limit=50)  # by hand, with options that the run never has
    assert some.step(range(1, 6)) == 2 and every.step(range(1, 6)) == 4
    measure(2, 1.1, limit=0)  # evaluated again
    assert some.step(range(1, 6)) == 1 and every.step(range(1, 6)) == 2
    evaluate(tmp_path, 6, loss=0.5)  # without a note of its options
    assert every.step(range(1, 7)) == 6


def test_one_that_is_truncated_is_not_kept(tmp_path):
    run(tmp_path, {1: 0.1, 2: 0.2})
    file = tmp_path / "checkpoints/1/layout.json"
    file.write_text(file.read_text()[:-1])
    assert run(tmp_path, {3: 0.3, 4: 0.4}) == [2, 4]
    with CheckpointStore(tmp_path / "checkpoints") as store:
        assert store.best_step(best_of(tmp_path)) == 2
        assert store.best_step(best_of(tmp_path, metric="other/loss")) is None


def test_a_configuration_says_which_is_the_best(tmp_path):
    config = default_config()
    assert Best.of(tmp_path, config) is None
    config.checkpoint.update(keep_best="held_out/loss", best_mode="min")
    assert Best.of(tmp_path, config) == best_of(tmp_path)
    config.eval.held_out = {"kind": "loss", "limit": 3, "templates": ("a", "b")}
    options = {"kind": "loss", "limit": 3, "templates": ["a", "b"]}
    assert Best.of(tmp_path, config) == best_of(tmp_path, options=options)


KILLED = """
import os, signal, sys
from pathlib import Path
import jax.numpy as jnp
sys.path.insert(0, "tests")
from checkpoints import best_test
from coca_jax.checkpoints import store

workdir = Path(sys.argv[1])
best_test.run(workdir, {1: 0.1, 2: 0.2})
remove = store.folders.remove_tree

def remove_and_die(folder):
    os.kill(os.getpid(), signal.SIGKILL)

store.folders.remove_tree = remove_and_die
best_test.run(workdir, {3: 0.05})  # 2 goes, 1 stays
"""


def test_what_a_killed_process_leaves_is_gone_on_from(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert steps_in(tmp_path) == [1, 2, 3]
    evaluate(tmp_path, 3, loss=0.05)
    assert run(tmp_path, {4: 0.3}) == [3, 4]
