"""Saves and restores: to the bit, onto other meshes, in part; damage and mismatches are named."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coca_jax.checkpoints import CheckpointStore
from coca_jax.errors import UserError


def mesh_of(shape: dict[str, int]) -> Mesh:
    devices = np.array(jax.devices()[: np.prod(list(shape.values()))])
    axis_types = (AxisType.Auto,) * len(shape)
    return Mesh(devices.reshape(tuple(shape.values())), tuple(shape), axis_types=axis_types)


def params_on(mesh: Mesh, spec: P, seed: int = 0) -> dict:
    """A small tree whose kernel is sharded as `spec` says and whose rest is replicated."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((16, 24), dtype=np.float32)
    scale = rng.standard_normal(24, dtype=np.float32)
    put = jax.device_put
    return {
        "dense": {"kernel": put(kernel, NamedSharding(mesh, spec))},
        "norm": {"scale": put(scale, NamedSharding(mesh, P()))},
        "temperature": put(np.float32(0.07), NamedSharding(mesh, P())),
    }


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save(directory: Path, *steps: int, keep: int = 3) -> dict:
    """Saves params whose values tell the step; returns the last step's."""
    with CheckpointStore(directory, keep) as store:
        for step in steps:
            params = params_on(mesh_of({"data": 8}), P("data"), seed=step)
            store.save(step, {"params": params}, {"examples_seen": step})
    return params


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def steps_in(directory: Path) -> list[str]:
    return sorted(folder.name for folder in directory.iterdir())


def assert_same_bits(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


OPTIMIZERS = {
    "adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1)),
    "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=4, momentum=0.9),
    "masked": optax.multi_transform(
        {"train": optax.adamw(optax.linear_schedule(0.0, 1.0, 5)), "freeze": optax.set_to_zero()},
        {"dense": "train", "norm": "freeze", "temperature": "freeze"},
    ),
    "bfloat16 moments": optax.adam(1e-3, mu_dtype=jnp.bfloat16),
    "without state": optax.sgd(1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_optimizer_come_back_to_the_bit(name, tmp_path):
    optimizer = OPTIMIZERS[name]
    params = params_on(mesh_of({"data": 8}), P("data"))
    state = optimizer.init(params)
    _, state = jax.jit(optimizer.update)(jax.tree.map(jnp.sin, params), state, params)
    items = {"params": params, "optimizer": state, "ema": None}
    with CheckpointStore(tmp_path) as store:
        store.save(7, items, {"examples_seen": 448})
    with CheckpointStore(tmp_path) as store:
        assert store.latest_valid() == 7
        restored = store.restore(7, {"params": abstract(params), "optimizer": abstract(state)})
    assert_same_bits(restored, {"params": params, "optimizer": state})


def test_save_copies_before_the_arrays_are_donated(tmp_path):
    x = jnp.arange(2.0**20)
    expected = np.array(x)
    update = jax.jit(lambda x: x * 2.0 + 1.0, donate_argnums=0)
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": {"x": x}}, {})
        for _ in range(20):
            x = update(x)
        x.block_until_ready()
        store.wait()
        restored = store.restore(1, {"params": {"x": abstract(x)}})
    np.testing.assert_array_equal(restored["params"]["x"], expected)


@pytest.mark.parametrize(
    "shape, spec",
    [
        ({"data": 8}, P(None, "data")),
        ({"fsdp": 2, "tensor": 4}, P("fsdp", "tensor")),
        ({"data": 2}, P("data")),
        ({"data": 1}, P()),
    ],
)
def test_restore_onto_another_mesh_and_device_count(shape, spec, tmp_path):
    saved = save(tmp_path, 1)
    target = abstract(params_on(mesh_of(shape), spec))
    with CheckpointStore(tmp_path) as store:
        restored = store.restore(1, {"params": target})["params"]
    for name, leaf in jax.tree_util.tree_leaves_with_path(target):
        found = dict(jax.tree_util.tree_leaves_with_path(restored))[name]
        assert found.sharding == leaf.sharding
    assert_same_bits(jax.device_get(restored), jax.device_get(saved))


def test_restore_casts_floats_and_needs_no_sharding(tmp_path):
    saved = save(tmp_path, 1)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), saved)
    with CheckpointStore(tmp_path) as store:
        restored = store.restore(1, {"params": target})["params"]
    kernel = restored["dense"]["kernel"]
    assert kernel.devices() == {jax.devices()[0]}
    expected = np.asarray(saved["dense"]["kernel"]).astype(jnp.bfloat16)
    assert_same_bits(kernel, expected)


def test_only_the_named_items_are_read(tmp_path):
    params = params_on(mesh_of({"data": 8}), P("data"))
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": params, "optimizer": {"mu": params}}, {})
        store.wait()
        assert store.latest_valid() == 1
        for path in files_of(tmp_path / "1" / "optimizer"):
            path.unlink()
        restored = store.restore(1, {"params": abstract(params)})
    assert restored.keys() == {"params"}
    assert_same_bits(restored["params"], params)


def test_a_part_of_an_item_is_read_onto_its_shards(tmp_path):
    saved = save(tmp_path, 1)
    mesh = mesh_of({"fsdp": 2, "tensor": 4})
    whole = abstract(params_on(mesh, P("tensor", "fsdp")))
    part = {"dense": whole["dense"]}
    with CheckpointStore(tmp_path) as store:
        assert store.shapes(1, "params") == {
            "dense/kernel": jax.ShapeDtypeStruct((16, 24), jnp.float32),
            "norm/scale": jax.ShapeDtypeStruct((24,), jnp.float32),
            "temperature": jax.ShapeDtypeStruct((), jnp.float32),
        }
        with pytest.raises(UserError, match="has no ema; it has params"):
            store.shapes(1, "ema")
        with pytest.raises(UserError, match="norm/scale: only stored"):
            store.restore(1, {"params": part})
        restored = store.restore(1, {"params": part}, partial=True)["params"]
        with pytest.raises(UserError, match="params/more: only wanted"):
            more = part | {"more": whole["temperature"]}
            store.restore(1, {"params": more}, partial=True)
    assert restored["dense"]["kernel"].sharding == part["dense"]["kernel"].sharding
    assert_same_bits(jax.device_get(restored), jax.device_get({"dense": saved["dense"]}))


def test_metadata_and_layout_are_plain_json(tmp_path):
    metadata = {"examples_seen": 4096, "config": {"train": {"steps": 3}, "names": ["a", None]}}
    params = {"a": {"b": jnp.zeros((2, 3), jnp.bfloat16)}, "n": jnp.int32(1)}
    with CheckpointStore(tmp_path) as store:
        store.save(12, {"params": params}, metadata)
        store.wait()
        assert store.metadata(12) == metadata
    assert json.loads((tmp_path / "12" / "layout.json").read_text()) == {
        "params": {"a/b": "[2, 3] bfloat16", "n": "[] int32"}
    }


def test_layout_differences_are_all_named_and_nothing_is_loaded(tmp_path):
    stored = {"x": {"kernel": jnp.zeros((12, 768)), "bias": jnp.zeros(768)}, "n": jnp.int32(0)}
    wanted = {
        "x": {"kernel": jnp.zeros((6, 768)), "bias": jnp.zeros(768, jnp.bfloat16)},
        "n": jnp.float32(0),
        "y": jnp.zeros(()),
    }
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": stored}, {})
        store.wait()
        lines = store.layout_differences(1, {"params": wanted, "ema": wanted})
        assert sorted(lines) == [
            "ema: not stored; the step has params",
            "params/n: stored [] int32, wanted [] float32",
            "params/x/kernel: stored [12, 768] float32, wanted [6, 768] float32",
            "params/y: only wanted, [] float32",
        ]
        assert store.layout_differences(1, {"params": {"n": stored["n"]}}) == [
            "params/x/bias: only stored, [768] float32",
            "params/x/kernel: only stored, [12, 768] float32",
        ]
        assert store.layout_differences(1, {"params": stored}) == []
        with pytest.raises(UserError) as caught:
            store.restore(1, {"params": wanted, "ema": wanted})
        assert all(line in str(caught.value) for line in lines)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": (flip_a_bit, "checksum differs"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
    "grown": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "too long"),
    "deleted": (lambda path: path.unlink(), "missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_to_every_file_is_found_and_the_older_step_used(name, tmp_path):
    damage, reason = DAMAGES[name]
    save(tmp_path, 10, 20)
    files = [path for path in files_of(tmp_path / "20") if path.name != "manifest.json"]
    assert len(files) >= 8
    for path in files:
        before = {file: file.read_bytes() for file in files}
        damage(path)
        lines = []
        store = CheckpointStore(tmp_path)
        assert store.latest_valid(lines.append) == 10
        assert len(lines) == 1 and str(tmp_path / "20") in lines[0]
        assert f"{path.relative_to(tmp_path / '20')}: {reason}" in lines[0]
        target = {"params": abstract(params_on(mesh_of({"data": 8}), P("data")))}
        with pytest.raises(UserError, match=reason):
            store.restore(20, target)
        assert_same_bits(store.restore(10, target)["params"], save(tmp_path / "again", 10))
        for file, data in before.items():
            file.write_bytes(data)
    assert CheckpointStore(tmp_path).latest_valid() == 20


def test_a_damaged_manifest_never_passes_for_another_content(tmp_path):
    save(tmp_path, 10)
    path = tmp_path / "10" / "manifest.json"
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        path.write_bytes(damaged)
        lines = []
        if CheckpointStore(tmp_path).latest_valid(lines.append) == 10:  # e.g. space became a tab
            assert json.loads(damaged) == json.loads(whole)
        else:
            assert "10" in lines[0]


def test_a_missing_manifest_means_an_interrupted_save(tmp_path):
    save(tmp_path, 10, 20)
    (tmp_path / "20" / "manifest.json").unlink()
    lines = []
    assert CheckpointStore(tmp_path).latest_valid(lines.append) == 10
    assert lines == [
        f"checkpoint {tmp_path / '20'} is not valid: no manifest.json, so its save was interrupted"
    ]


def test_nothing_saved(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    assert store.latest_valid() is None
    with pytest.raises(UserError, match="no such folder"):
        store.metadata(3)
    assert not (tmp_path / "none").exists()


def test_the_newest_are_kept_and_unsound_ones_do_not_count(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert steps_in(tmp_path) == ["3", "4"]
    (tmp_path / "4" / "manifest.json").unlink()
    save(tmp_path, 5, keep=2)
    assert steps_in(tmp_path) == ["3", "5"]
    with pytest.raises(UserError, match="keep is 0"):
        CheckpointStore(tmp_path, keep=0)


def test_of_a_step_that_is_a_link_only_the_link_is_removed(tmp_path):
    directory, archive = tmp_path / "checkpoints", tmp_path / "archive"
    save(directory, 1)
    (directory / "1").rename(archive)
    (directory / "1").symlink_to(archive)
    before = files_of(archive)
    save(directory, 2, keep=1)
    assert [path.name for path in directory.iterdir()] == ["2"]
    assert files_of(archive) == before


def test_saving_a_step_again_replaces_it_only_if_unsound(tmp_path):
    save(tmp_path, 1)
    data = next(path for path in files_of(tmp_path / "1" / "params") if path.parent.name == "d")
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": {"other": jnp.ones(3)}}, {"examples_seen": -1})
        store.wait()
        assert store.metadata(1) == {"examples_seen": 1}
    flip_a_bit(data)
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": {"other": jnp.ones(3)}}, {"examples_seen": -1})
        store.wait()
        assert store.latest_valid() == 1
        assert store.metadata(1) == {"examples_seen": -1}
        target = {"params": {"other": jax.ShapeDtypeStruct((3,), jnp.float32)}}
        np.testing.assert_array_equal(store.restore(1, target)["params"]["other"], np.ones(3))
