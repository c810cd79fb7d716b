"""Averages of models: exact against NumPy in float64, whole or not there, refused where unlike."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config, read_config, to_json, write_config
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint
from coca_jax.interop import average as module
from coca_jax.interop.average import average, ema, find_models, uniform

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"a/kernel": (5, 3), "a/bias": (3,), "b/scale": (7,), "logit_scale": ()}


def values_of(seed, shapes=None):
    rng = np.random.default_rng(seed)
    # Of many sizes, so that sums in float32 would round.
    return {
        n: (rng.normal(size=s) * 10.0 ** (seed % 7)).astype(np.float32)
        for n, s in (shapes or SHAPES).items()
    }


def nested(flat):
    tree = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)
    return tree


def make_run(folder, *seeds, shapes=None, use_ema=False, **changes):
    """A run with a step for each seed, whose parameters it is of."""
    config = default_config()
    config.data.tokenizer.kind = "byte"
    config.optimizer.ema_decay = 0.9 if use_ema else 0.0
    config.update_from_flattened_dict(changes)
    with CheckpointStore(folder / "checkpoints", keep=99) as store:
        for seed in seeds:
            items = {"params": nested(values_of(seed, shapes))}
            if use_ema:
                items |= {"ema": items["params"], "params": nested(values_of(seed + 50, shapes))}
            store.save(100 * seed, items, {"config": to_json(config)})
    write_config(folder, config)
    return str(folder)


def stored(folder):
    source = find_checkpoint(folder)
    target = nested({n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), target)
    restored = source.restore("params", target)
    return {
        name: np.asarray(leaf)
        for name, leaf in zip(sorted(SHAPES), jax.tree.leaves(restored), strict=False)
    }


def by_numpy(seeds, weights):
    models = [values_of(seed) for seed in seeds]
    return {
        name: sum(w * m[name].astype(np.float64) for w, m in zip(weights, models, strict=True))
        for name in SHAPES
    }


def assert_mean(folder, seeds, weights):
    expected, found = by_numpy(seeds, weights), stored(folder)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name].astype(np.float32), err_msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / f"run{seed}", seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("part_bytes", [1, 2**30])
def test_a_soup_is_the_mean(runs, tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    assert average(find_models(runs), uniform(3), tmp_path / "out") == 26
    assert_mean(tmp_path / "out", (1, 2, 3), (1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("option", "count", "weights"),
    [
        ((), 3, (1 / 3, 1 / 3, 1 / 3)),
        (("--weights=1,0,3"), 3, (0.25, 0.0, 0.75)),
        (("--alpha=0.3"), 2, (0.7, 0.3)),
    ],
)
def test_the_command_weighs(runs, tmp_path, capsys, option, count, weights):
    out = str(tmp_path / "out")
    assert cli.main(["average", *[option] * bool(option), *runs[:count], out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [float(line.split()[0]) for line in lines[:-1]] == pytest.approx(weights, abs=1e-4)
    assert lines[-1] == f"{out}: 26 parameters, the mean of {count} models"
    assert_mean(out, range(1, count + 1), weights)
    parts = json.loads((tmp_path / "out/checkpoints/0/metadata.json").read_text())["average"]
    assert [part["weight"] for part in parts] == pytest.approx(weights)
    assert parts[0]["model"] == f"{runs[0]}, step 100"


def test_a_moving_average_of_the_steps_of_a_run(tmp_path):
    run = make_run(tmp_path / "run", 2, 10, 3, use_ema=True)
    value = values_of(2)["a/kernel"].astype(np.float64)
    for seed in (3, 10):  # in the order of the steps
        value = 0.8 * value + 0.2 * values_of(seed)["a/kernel"].astype(np.float64)
    assert ema(0.8)(3) == pytest.approx([0.64, 0.16, 0.2])
    steps = [f"{run}/checkpoints/{step}" for step in (1000, 200, 300)]  # as a shell sorts them
    for number, models in enumerate(([run], steps)):
        out = tmp_path / f"out{number}"
        assert cli.main(["average", "--ema=0.8", *models, str(out)]) == 0
        np.testing.assert_allclose(stored(out)["a/kernel"], value, rtol=1e-7)
    config = read_config(out)
    assert config.optimizer.ema_decay == 0.0  # what is stored is the parameters'


def test_a_single_workdir_is_all_of_its_steps(tmp_path):
    run = make_run(tmp_path / "run", 1, 2)
    (tmp_path / "run/checkpoints/300").mkdir()  # a save under way
    assert [model.step for model in find_models([run])] == [100, 200]
    with pytest.raises(UserError, match="of two or more models"):
        find_models([f"{run}/checkpoints/200"])


def test_models_that_were_trained_in_different_ways_are_averaged(runs, tmp_path):
    changes = {"dropout": 0.25, "stochastic_depth": 0.5, "image.patch_dropout": 0.5}
    changes |= {"dtype": "bfloat16", "remat": "full", "attention": "auto"}
    other = make_run(tmp_path / "other", 2, **{f"model.{k}": v for k, v in changes.items()})
    average(find_models([runs[0], other]), uniform(2), tmp_path / "out")
    assert_mean(tmp_path / "out", (1, 2), (0.5, 0.5))
    assert read_config(tmp_path / "out").model.dropout == 0.0  # the first one's


def test_what_does_not_fit_is_named_in_one_message(runs, tmp_path):
    other = make_run(
        *(tmp_path / "other", 1),
        shapes={"a/kernel": (5, 4), "a/bias": (3,), "logit_scale": (), "c": (1,)},
        **{"model.embed_dim": 99, "model.remat": "full", "seed": 5, "train.steps": 7777},
    )
    with pytest.raises(UserError) as caught:
        average(find_models([runs[0], other]), uniform(2), tmp_path / "out")
    assert str(caught.value).splitlines() == [
        f"{other}, step 100 cannot be averaged with {runs[0]}, step 100:",
        f"  config.model.embed_dim: {default_config().model.embed_dim} there, 99 now",
        "  a/kernel: [5, 3] there, [5, 4] here",
        "  b/scale: [7] there, absent here",
        "  c: absent there, [1] here",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights=1,2"], "--weights is of 2 models, and there are 3"),
        (["--alpha=0.5"], "--alpha is of 2 models, and there are 3"),
        (["--ema=0.9"], "--ema is of the steps of one run"),
    ],
)
def test_options_that_do_not_fit(runs, tmp_path, capsys, arguments, message):
    assert cli.main(["average", *arguments, *runs, str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", ["--weights=1,x", "--weights=0,0", "--weights=1e308,1e308", "--alpha=2", "--ema=nan"]
)
def test_values_that_are_not_allowed(option, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["average", option, "a", "b", "out"])
    assert stop.value.code == 2 and "should be" in capsys.readouterr().err


def test_a_folder_that_holds_something_stays(runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        average(find_models(runs), uniform(3), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes"]


def test_a_damaged_model_is_named(runs, tmp_path):
    damaged = shutil.copytree(runs[1], tmp_path / "damaged")
    (damaged / "checkpoints/200/layout.json").write_text("{}")
    with pytest.raises(UserError, match=r"checkpoints/200 is not valid: layout.json"):
        find_models([runs[0], f"{damaged}/checkpoints/200"])


KILLED = """
import os, signal, sys
from coca_jax.interop import average as module, convert
convert.write_config = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
module.average(module.find_models(sys.argv[1:3]), [0.5, 0.5], sys.argv[3])
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_model(runs, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, *runs[:2], str(out)], env=environment)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    average(find_models(runs[:2]), uniform(2), out)
    assert_mean(out, (1, 2), (0.5, 0.5))
