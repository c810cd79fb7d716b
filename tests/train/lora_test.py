"""Fine-tuning by LoRA: what is trained, saved, resumed and loaded, and what is refused."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from small_run import make_config as make_run_config
from train.step_test import make_batch, make_config, partitioner_of

from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.results import read_step
from coca_jax.inference import adapted, find_checkpoint, restore_params
from coca_jax.interop.average import average, find_models
from coca_jax.planning.flops import hardware_flops
from coca_jax.train import loop, resume
from coca_jax.train.experiment import build
from coca_jax.train.program import make_program

RANK, ALPHA = 2, 3.0
LORA = {"lora.rank": RANK, "lora.alpha": ALPHA}
ONE_STEP = {"optimizer.name": "adamw", "optimizer.ema_decay": 0.9, "optimizer.warmup_steps": 0}


def flat(tree):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def steps_on(sizes, grad_accum_steps, count=2):
    """The states before and after steps on a mesh, and the metrics."""
    config = make_config(**ONE_STEP, **LORA, **{"train.grad_accum_steps": grad_accum_steps})
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    partitioner = partitioner_of(sizes, config)
    program = make_program(config, partitioner)
    state = program.factory.create(3)
    first = jax.device_get(state)
    batches = [partitioner.put_batch(make_batch(seed)) for seed in range(count)]
    step = program.compile(state, batches[0])
    for batch in batches:
        state, metrics = step(state, batch)
    return first, state, jax.device_get(metrics)


@pytest.fixture(scope="module")
def one_device():
    return steps_on((1, 1, 1), 1)


@pytest.mark.slow
def test_a_step_changes_the_factors_alone(one_device):
    first, state, metrics = one_device
    jax.tree.map(np.testing.assert_array_equal, state.frozen, first.frozen)
    before, after = flat(first.params), flat(state.params)
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in after)
    assert state.params.keys() == {"lora"} and set(state.frozen) > {"decoder", "image_encoder"}
    sizes = {math.prod(x.shape) for x in jax.tree.leaves(state.optimizer)}
    assert sizes == {x.size for x in after.values()} | {1}
    assert {"grad_norm/lora", "grad_norm"} <= metrics.keys()
    assert not any(x.startswith("grad_norm/") for x in metrics.keys() - {"grad_norm/lora"})


@pytest.mark.slow
def test_steps_on_a_mesh_by_micro_batches_are_those_of_one_device(one_device):
    first, state, metrics = steps_on((2, 2, 2), 2)
    jax.tree.map(np.testing.assert_array_equal, first.frozen, one_device[0].frozen)
    for name in ("params", "ema", "frozen"):
        expected = flat(getattr(one_device[1], name))
        for path, value in flat(getattr(state, name)).items():
            np.testing.assert_allclose(value, expected[path], rtol=2e-3, atol=2e-5, err_msg=path)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], one_device[2][name], rtol=1e-4)
    up = state.params["lora"]["decoder"]["unimodal"]["layers"]["mlp"]["up"]["kernel"]
    assert tuple(up["a"].sharding.spec) == (None, "fsdp", None)
    assert tuple(up["b"].sharding.spec) == (None, None, "tensor")


@pytest.mark.slow
def test_no_gradient_of_a_kernel_is_computed():
    flops = []
    for changes in ({}, LORA):
        config = make_config(**changes)
        partitioner = partitioner_of((1, 1, 1), config)
        program = make_program(config, partitioner)
        state = program.factory.abstract
        batch = jax.eval_shape(lambda: make_batch())
        flops.append(hardware_flops(program.trace(state, batch).jaxpr))
    assert flops[1] < 0.85 * flops[0]


@pytest.fixture(scope="module")
def base(small_run, tmp_path_factory):
    """A copy of a trained run, and the configuration of a run with LoRA that starts from it."""
    folder = tmp_path_factory.mktemp("base") / "base"
    return shutil.copytree(small_run, folder)


def lora_config(prepared, base, **changes):
    lora = {"init.path": str(base), "train.steps": 4, "seed": 1, "optimizer.learning_rate": 0.05}
    return make_run_config(prepared, **(lora | LORA | {"optimizer.warmup_steps": 0} | changes))


@pytest.fixture(scope="module")
def run(prepared, base, tmp_path_factory, compiled_once, programs_once):
    """The workdir of a run with LoRA."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    loop.train(lora_config(prepared, base), workdir)
    return workdir


def stored(workdir, step, item):
    with CheckpointStore(workdir / "checkpoints") as store:
        shapes = store.shapes(step, item)
        target = traverse_util.unflatten_dict(shapes, sep="/")
        return flat(store.restore(step, {item: target})[item])


def params_of(path):
    partitioner = Partitioner(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    return flat(restore_params(find_checkpoint(path), partitioner))


def expected_params(base, run):
    """The averages of the base and of the factors, merged by NumPy in float64."""
    values, factors = stored(base, 6, "ema"), stored(run, 4, "ema")
    for name in values:
        if f"lora/{name}/a" in factors:
            a, b = (np.float64(factors[f"lora/{name}/{part}"]) for part in "ab")
            values[name] = values[name] + ALPHA / RANK * np.einsum("...ir,...ro->...io", a, b)
    return values


def test_a_checkpoint_has_the_factors_and_loads_as_the_whole_model(base, run):
    names = stored(run, 4, "params")
    assert names and all(name.startswith("lora/") for name in names)
    size = sum(path.stat().st_size for path in (run / "checkpoints/4").rglob("*"))
    whole = sum(path.stat().st_size for path in (base / "checkpoints/6").rglob("*"))
    assert size < whole / 4
    expected, params = expected_params(base, run), params_of(run)
    assert params.keys() == expected.keys()
    for name, value in params.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    before = stored(base, 6, "ema")
    assert sum(np.abs(params[name] - before[name]).max() > 1e-3 for name in params) > 10


def test_it_can_be_written_as_a_model_without_a_base(base, run, tmp_path):
    assert cli.main(["convert", "--to", "coca", str(run), str(tmp_path / "out")]) == 0
    params = params_of(tmp_path / "out")
    for name, value in params_of(run).items():
        np.testing.assert_array_equal(params[name], value, err_msg=name)
    assert not (tmp_path / "out/checkpoints/0/optimizer").exists()


def test_an_average_with_the_base_is_of_merged_models(base, run, tmp_path):
    average(find_models([str(run), str(base)]), [0.75, 0.25], tmp_path / "out")
    before, expected = stored(base, 6, "ema"), expected_params(base, run)
    for name, value in params_of(tmp_path / "out").items():
        wanted = 0.25 * before[name] + 0.75 * expected[name]
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    config = json.loads((tmp_path / "out/config.json").read_text())["config"]
    assert config["lora"]["rank"] == 0


def test_a_run_goes_on_to_the_bit_though_its_base_goes_on(prepared, base, run, tmp_path):
    moved = shutil.copytree(base, tmp_path / "moved")
    shutil.copytree(moved / "checkpoints/6", moved / "checkpoints/8")  # a newer step
    workdir = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints/4")
    (workdir / "eval/4.json").unlink()
    loop.train(lora_config(prepared, moved), workdir)
    for item in ("params", "optimizer", "ema"):
        expected, values = stored(run, 4, item), stored(workdir, 4, item)
        assert expected.keys() == values.keys()
        for name in values:
            np.testing.assert_array_equal(values[name], expected[name])
    assert read_step(workdir, 4) == read_step(run, 4)


def test_another_base_is_refused(prepared, base, run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    other = shutil.copytree(base, tmp_path / "other")
    shutil.rmtree(other / "checkpoints")
    (other / "checkpoints").mkdir()
    shutil.copytree(base / "checkpoints/4", other / "checkpoints/6")
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["init"]["path"] = str(other)
    (workdir / "config.json").write_text(json.dumps(record))
    find_checkpoint(workdir)  # for the checkpoint remembers where its base was
    metadata = json.loads((workdir / "checkpoints/4/metadata.json").read_text())
    assert metadata["base"]["path"] == str(base)
    shutil.move(base / "checkpoints", base / "gone")
    try:
        with pytest.raises(UserError, match="holds only what LoRA trained") as caught:
            find_checkpoint(workdir)
        assert "is another model: its checksum differs" in str(caught.value)
        assert f"init.path in {workdir}/config.json" in str(caught.value)
        with pytest.raises(UserError, match=r"should be the model that .* began with"):
            build(lora_config(prepared, other), workdir)
    finally:
        shutil.move(base / "gone", base / "checkpoints")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init.path": ""}, "lora.rank=2 needs the trained model"),
        ({"init.only": "decoder/.*"}, "config.init.only should be"),
        ({"train.quantization": "int8"}, "train.quantization=int8 exclude each other"),
        ({"lora.layers": ("gate",)}, "'gate' matches no kernel; there are .*attention/key/kernel"),
        ({"model.text.context_length": 24}, "config.lora.full should match .*decoder/positions"),
    ],
)
def test_what_does_not_go_with_it_is_refused(prepared, base, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(lora_config(prepared, base, **changes), tmp_path)


def test_changed_positions_can_be_trained_in_full(prepared, base, tmp_path):
    changes = {"model.text.context_length": 24, "lora.full": ("decoder/positions",)}
    state = build(lora_config(prepared, base, **changes), tmp_path).program.factory.abstract
    assert state.params["decoder"]["positions"].shape[0] == 25
    assert "positions" not in state.frozen["decoder"]


def test_a_base_that_goes_on_may_remove_its_step(prepared, base, tmp_path):
    experiment = build(lora_config(prepared, base), tmp_path)
    shutil.move(base / "checkpoints", base / "gone")
    try:
        record = resume.metadata(experiment, 1, {}, {})["base"]
    finally:
        shutil.move(base / "gone", base / "checkpoints")
    assert record == adapted.model_record(find_checkpoint(base), "ema")
