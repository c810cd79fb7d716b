"""Runs that start from other runs' parameters: what is taken over, resampled, new, and refused."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from reference.open_clip import recorded
from reference.resampling import resampled
from safetensors.numpy import load_file

from coca_jax import cli
from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config, load_config, to_json, write_config
from coca_jax.data.sources.tfds import tokenizer_path
from coca_jax.data.tokenizers import tokenizers
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.interop.convert import import_open_clip
from coca_jax.interop.tokenizer_files import clip_json
from coca_jax.io.paths import as_path
from coca_jax.models import preset
from coca_jax.models.presets import as_section
from coca_jax.train.program import make_program
from coca_jax.train.warm_start import POSITIONS, TEXT_POSITIONS, find_source, plan

CAPTIONING_ONLY = {"loss.contrastive.weight": 0.0}
CONTRASTIVE_ONLY = {"loss.captioning.weight": 0.0}
FACTORIES = {}


def make_config(**changes):
    config = default_config()
    config.model = preset("tiny")
    config.data.tokenizer.kind = "byte"
    config.optimizer.ema_decay = 0.5
    config.update_from_flattened_dict({"mesh.data": 1} | changes)
    return config


def factory_of(config):
    """Made once of each configuration: tracing takes longest of all that is done here."""
    key = json.dumps(to_json(config))
    if key not in FACTORIES:
        FACTORIES[key] = make_program(config, Partitioner(make_mesh(config.mesh))).factory
    return FACTORIES[key]


def new_state(config, seed=0):
    """A state as `StateFactory.create` makes it, but random throughout; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        return jax.device_put(rng.standard_normal(leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(fill, factory_of(config).abstract)


def flat(tree):
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(tree, sep="/").items()}


def write_run(workdir, config):
    """A workdir as after training: its average is not its parameters."""
    params, ema = (new_state(config, seed).params for seed in (1, 2))
    with CheckpointStore(workdir / "checkpoints") as store:
        store.save(3, {"params": params, "ema": ema if config.optimizer.ema_decay else None}, {})
    write_config(workdir, config)
    return {"params": flat(params), "ema": flat(ema)}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run with both losses at 16 pixels, 2 x 2 patches; and its stored items."""
    workdir = tmp_path_factory.mktemp("full")
    return workdir, write_run(workdir, make_config())


def start(config, path, file=""):
    """The plan, the state that comes out, and its parameters beforehand."""
    source = find_source(str(path), as_path(path) / "no run yet")
    warm_start = plan(source, config, factory_of(config).abstract.params, file)
    state = new_state(config)
    before = flat(state.params)
    return warm_start, warm_start.apply(state), before


@pytest.mark.parametrize(
    "changes, grid",
    [
        ({"model.image.size": 32, "mesh.fsdp": 4, "mesh.tensor": 2}, (4, 4)),
        ({"model.image.size": 24, "model.image.grid_width": 5}, (3, 5)),
    ],
)
def test_all_is_restored_and_positions_are_resampled(full, changes, grid):
    workdir, stored = full
    config = make_config(**changes)
    warm_start, state, before = start(config, workdir)
    found = flat(state.params)
    expected = stored["ema"] | {
        POSITIONS: resampled(stored["ema"][POSITIONS], (2, 2), grid).astype(np.float32)
    }
    assert found.keys() == expected.keys() == before.keys()
    np.testing.assert_allclose(found[POSITIONS], expected[POSITIONS], rtol=1e-6, atol=1e-6)
    for name in found.keys() - {POSITIONS}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert jax.tree.map(lambda x: x.sharding, state) == factory_of(config).shardings
    text = warm_start.summary()
    assert f"{POSITIONS}, from 2 x 2 to {grid[0]} x {grid[1]} patches" in text
    assert f"restored  {len(found) - 1} arrays" in text
    assert "config.model.image.size: 16 there" in text
    assert "new" not in text and "left out" not in text


def test_images_as_they_are_begin_with_the_positions_of_one_size(full):
    config = make_config(**{"model.image.sequence_lengths": (9, 4)})
    warm_start, state, _ = start(config, full[0])
    jax.tree.map(np.testing.assert_array_equal, flat(state.params), full[1]["ema"])
    assert not warm_start.resampled
    assert "config.model.image.sequence_lengths: [] there, [9, 4] now" in warm_start.summary()


def test_the_average_begins_as_a_copy_and_the_optimizer_is_left_alone(full):
    config = make_config(**{"init.use_ema": False})
    _, state, _ = start(config, full[0])
    for item in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, flat(item), full[1]["params"])
    fresh = new_state(config)
    jax.tree.map(np.testing.assert_array_equal, state.optimizer, fresh.optimizer)
    assert state.step == fresh.step
    # Two copies: a step gives the old state's memory away.
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    donate(state)


def test_a_source_without_an_average_gives_its_parameters(tmp_path):
    stored = write_run(tmp_path, make_config(**{"optimizer.ema_decay": 0.0}))
    warm_start, state, *_ = start(make_config(**{"optimizer.ema_decay": 0.0}), tmp_path)
    assert warm_start.item == "params" and state.ema is None
    jax.tree.map(np.testing.assert_array_equal, flat(state.params), stored["params"])


@pytest.mark.parametrize("changes", [CAPTIONING_ONLY, CONTRASTIVE_ONLY])
def test_parts_that_are_not_trained_are_left_out(full, changes):
    warm_start, state, *_ = start(make_config(**changes), full[0])
    found = flat(state.params)
    assert set(warm_start.left_out) == full[1]["ema"].keys() - found.keys() != set()
    assert "left out  " in warm_start.summary() and warm_start.new == ()
    for name, values in found.items():
        expected = full[1]["ema"][name]
        if name == TEXT_POSITIONS:
            expected = expected[: len(values)]
        np.testing.assert_array_equal(values, expected, err_msg=name)
    assert warm_start.resized == (changes is CAPTIONING_ONLY)


@pytest.mark.parametrize("changes", [CAPTIONING_ONLY, CONTRASTIVE_ONLY])
def test_parts_that_are_not_stored_are_seeded(tmp_path, changes):
    stored = write_run(tmp_path, make_config(**changes))["ema"]
    warm_start, state, before = start(make_config(), tmp_path)
    found = flat(state.params)
    assert set(warm_start.new) == found.keys() - stored.keys() != set()
    for name, values in found.items():
        expected = stored.get(name, before[name])
        if expected.shape != values.shape:
            assert name == TEXT_POSITIONS and changes is CAPTIONING_ONLY
            expected = np.concatenate([expected, before[name][-1:]])
        np.testing.assert_array_equal(values, expected, err_msg=name)
    text = warm_start.summary()
    if changes is CONTRASTIVE_ONLY:
        assert "decoder/multimodal/... (" in text
        assert "config.loss.captioning.weight: 0.0 there, 2.0 now" in text
    else:
        assert f"{TEXT_POSITIONS}, whose last row, [CLS]'s, is new" in text


def refused(config, path, file=""):
    with pytest.raises(UserError) as caught:
        start(config, path, file)
    return str(caught.value)


def test_other_shapes_are_all_named(full):
    config = make_config(**{"model.text.vocab_size": 300})
    lines = refused(config, full[0]).splitlines()
    wanted = traverse_util.flatten_dict(factory_of(config).abstract.params, sep="/")
    assert "does not fit this run" in lines[0]
    names = {line.split(":")[0].strip() for line in lines[1:-1]}
    shapes = {name: leaf.shape for name, leaf in full[1]["ema"].items()}
    assert names == {name for name in shapes if wanted[name].shape != shapes[name]}
    assert any(line.endswith("[64, 32] there, [300, 32] now") for line in lines)
    assert lines[-1] == "  config.model.text.vocab_size: 64 there, 300 now"


@pytest.mark.parametrize("length", [8, 20])
@pytest.mark.parametrize("changes", [{}, CAPTIONING_ONLY])
def test_positions_of_longer_or_shorter_texts(full, length, changes):
    warm_start, state, before = start(
        make_config(**{"model.text.context_length": length}, **changes), full[0]
    )
    old, both = full[1]["ema"][TEXT_POSITIONS], min(12, length)
    cls = [] if changes else [old[-1:]]
    expected = np.concatenate([old[:both], before[TEXT_POSITIONS][both:length], *cls])
    np.testing.assert_array_equal(flat(state.params)[TEXT_POSITIONS], expected)
    assert f"of {length} tokens, from 12" in warm_start.summary()


def test_only_what_is_asked_for_is_taken(full):
    warm_start, state, before = start(make_config(**{"init.only": "image_encoder/.*"}), full[0])
    for name, values in flat(state.params).items():
        taken = name.startswith("image_encoder/")
        expected = full[1]["ema"][name] if taken else before[name]
        np.testing.assert_array_equal(values, expected, err_msg=name)
    assert "new" in warm_start.summary() and warm_start.left_out == ()
    assert "matches none of" in refused(make_config(**{"init.only": "image"}), full[0])
    assert "config.init.only='('" in refused(make_config(**{"init.only": "("}), full[0])


def with_head(*classes):
    head = {"loss.classification.weight": 1.0, "head.classes": classes, "head.input": "text"}
    return make_config(**head, **CAPTIONING_ONLY)


def test_a_head_is_new_unless_it_tells_the_same_classes_apart(tmp_path, full):
    warm_start, *_ = start(with_head("a", "b", "c"), full[0])
    assert {name.split("/")[0] for name in warm_start.new} == {"head"}
    stored = write_run(tmp_path, with_head("a", "b", "c"))["ema"]
    kernel = "head/softmax/kernel"
    warm_start, state, _ = start(with_head("a", "b", "c"), tmp_path)
    assert warm_start.new == ()
    np.testing.assert_array_equal(flat(state.params)[kernel], stored[kernel])
    for classes in (("a", "b"), ("x", "y", "z")):
        warm_start, state, before = start(with_head(*classes), tmp_path)
        assert {name.split("/")[0] for name in warm_start.new} == {"head"}
        np.testing.assert_array_equal(flat(state.params)[kernel], before[kernel])


def test_a_class_token_is_not_made_of_patches(full):
    config = make_config(**{"model.image.class_token": True, "model.image.size": 32})
    assert f"{POSITIONS}: [4, 32] there, [17, 32] now" in refused(config, full[0])


def test_other_tokenizers_are_refused(full, tmp_path):
    config = make_config(**{"data.tokenizer.kind": "clip"})
    assert "of another kind: byte there, clip now" in refused(config, full[0])
    pieces = make_config(**{"data.tokenizer.kind": "sentencepiece"})
    write_run(tmp_path / "run", pieces)
    (tmp_path / "run/tokenizer.model").write_bytes(b"one")
    (tmp_path / "other.model").write_bytes(b"two")
    message = refused(pieces, tmp_path / "run", str(tmp_path / "other.model"))
    assert "ids would mean other words" in message
    start(pieces, tmp_path / "run", str(tmp_path / "run/tokenizer.model"))


def test_a_tokenizer_whose_roles_are_in_another_file_is_the_same(tmp_path):
    config = make_config(**{"data.tokenizer.kind": "json"})
    write_run(tmp_path, config)
    (tmp_path / "tokenizer.json").write_text(json.dumps(clip_json()))
    roles = {"pad_token": "!", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    whole = tmp_path / "whole.json"
    whole.write_bytes(tokenizers["json"].standalone_file(tmp_path / "tokenizer.json"))
    for file in (tmp_path / "tokenizer.json", whole):
        start(config, tmp_path, str(file))


def test_nothing_that_fits_is_refused(tmp_path):
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(0, {"ema": {"encoder": {"kernel": jnp.zeros(3)}}}, {})
    write_config(tmp_path, make_config())
    message = refused(make_config(), tmp_path)
    assert "none of its parameters has a place here; it has encoder/kernel" in message


def test_a_converted_model_is_a_source(tmp_path):
    theirs = recorded("square")
    (tmp_path / "square.json").write_text(json.dumps(theirs.settings))
    import_open_clip(theirs.file, str(tmp_path / "square.json"), tmp_path / "model")
    model = theirs.config()
    image = dataclasses.replace(model.image, size=2 * model.image.size)
    config = make_config(**{"data.tokenizer.kind": "clip"})
    config.model = as_section(dataclasses.replace(model, image=image))
    warm_start, state, *_ = start(config, tmp_path / "model")
    expected, found = flat(theirs.params()), flat(state.params)
    grid = model.image.grid
    table = resampled(expected.pop(POSITIONS), grid, (2 * grid[0], 2 * grid[1]), first=1)
    np.testing.assert_allclose(found.pop(POSITIONS), table, rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert warm_start.new == warm_start.left_out == ()


TOWERS = pathlib.Path(__file__).parent.parent / "fixtures/towers"


def tower_config(**changes):
    """A run that the tiny CLIP's towers fit."""
    config = make_config(**{"data.tokenizer.kind": "clip"})
    image = {"size": 12, "patch": 4, "width": 16, "num_heads": 2, "mlp_dim": 64}
    image |= {"class_token": True, "pre_norm": True, "patch_bias": False}
    text = {"vocab_size": 96, "context_length": 8, "width": 16, "num_heads": 2, "mlp_dim": 64}
    flat = {f"model.image.{key}": value for key, value in image.items()}
    flat |= {f"model.text.{key}": value for key, value in text.items()}
    flat |= {"model.pooler.num_heads": 2, "model.embed_dim": 24}
    config.update_from_flattened_dict(flat | changes)
    return config


def test_the_towers_of_a_clip_are_taken_and_the_rest_is_new():
    config = tower_config(**{"model.image.size": 24, "model.text.context_length": 7})
    warm_start, state, before = start(config, TOWERS / "clip.safetensors")
    theirs, found = load_file(TOWERS / "clip.safetensors"), flat(state.params)
    table = resampled(theirs["visual.positional_embedding"], (3, 3), (6, 6), first=1)
    np.testing.assert_allclose(found.pop(POSITIONS), table, rtol=1e-6, atol=1e-6)
    rows = np.concatenate([theirs["positional_embedding"][:7], before[TEXT_POSITIONS][-1:]])
    np.testing.assert_array_equal(found.pop(TEXT_POSITIONS), rows)
    np.testing.assert_array_equal(found["text_projection"], theirs["text_projection"])
    np.testing.assert_array_equal(found["decoder/embedding"], theirs["token_embedding.weight"])
    up = theirs["visual.transformer.resblocks.1.mlp.c_fc.weight"].T
    name = "image_encoder/transformer/layers/mlp/up/kernel"
    np.testing.assert_array_equal(found[name][1], up)
    new = {name for name, value in found.items() if np.array_equal(value, before[name])}
    assert new == set(warm_start.new) and "logit_scale" in new
    assert {name.split("/")[0] for name in new} == {
        *("caption_pooler", "contrastive_pooler", "decoder", "image_projection", "logit_scale"),
    }
    assert not any(name.startswith(("decoder/unimodal", "decoder/embedding")) for name in new)
    assert jax.tree.map(lambda x: x.sharding, state) == factory_of(config).shardings
    lines = warm_start.summary()
    for line in (
        "clip.safetensors (OpenCLIP's image encoder, OpenCLIP's text encoder), its parameters",
        f"resampled  {POSITIONS}, from 3 x 3 to 6 x 6 patches",
        f"resized  {TEXT_POSITIONS}, whose last row, [CLS]'s, is new, of 7 tokens, from 8",
        "left out  logit_scale, visual/proj",
        "differs  attention heads: the weights do not say how many",
    ):
        assert line in lines


def test_a_tower_that_does_not_fit_is_said_and_stays_new():
    config = tower_config(**{"data.tokenizer.kind": "byte"})
    warm_start, *_ = start(config, TOWERS / "clip.safetensors")
    assert not any(name.startswith("decoder/") for name in warm_start.reads)
    assert "not taken  its text encoder: it reads CLIP's tokens" in warm_start.summary()
    config.model.image.num_layers = 3
    message = refused(config, TOWERS / "clip.safetensors")
    assert "clip.safetensors does not fit this run:\n  its image encoder: 2 layers" in message
    assert "\n  its text encoder: " in message
    only = tower_config(**{"init.only": "caption_pooler/.*"})
    assert "matches no parameter of image_encoder or decoder" in refused(
        only, TOWERS / "clip.safetensors"
    )


def test_open_clips_weights_are_a_source(tmp_path):
    theirs = recorded("square")
    shutil.copy(theirs.file, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": theirs.settings}))
    config = make_config(**{"data.tokenizer.kind": "clip", "init.only": "image_encoder/.*"})
    config.model = as_section(theirs.config())
    warm_start, state, _ = start(config, tmp_path)
    expected, found = flat(theirs.params()), flat(state.params)
    for name in warm_start.reads:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert warm_start.left_out == () and len(warm_start.reads) > 10


def params_at(workdir, step):
    with CheckpointStore(workdir / "checkpoints") as store:
        shapes = traverse_util.unflatten_dict(store.shapes(step, "params"), sep="/")
        return flat(store.restore(step, {"params": shapes})["params"])


@pytest.mark.slow
def test_high_resolution_continues_pretraining(prepared, tmp_path, capsys):
    base, run = tmp_path / "base", tmp_path / "high"
    config = load_config("configs/coca_base.py:smoke", ["--config.mesh.data=1"])
    stored = write_run(base, config)["params"]
    shutil.copy(tokenizer_path("shapes", prepared), base / "tokenizer.model")
    command = ["train", "--config", "configs/coca_base_576.py:smoke", "--workdir", str(run)]
    command += [f"--config.init.path={base}", f"--config.data.dir={prepared}"]
    command += ["--config.mesh.data=1", "--config.train.steps=3", "--config.checkpoint.every=1"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert f"starts from  {base}, step 3, its parameters" in out
    assert f"{POSITIONS}, from 4 x 4 to 8 x 8 patches" in out
    # The warm-up's first step has a learning rate of 0.
    found = params_at(run, 1)
    table = resampled(stored.pop(POSITIONS), (4, 4), (8, 8))
    np.testing.assert_allclose(found.pop(POSITIONS), table, rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found, stored)
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["init"]["path"] == str(base)

    # Its own checkpoints are what it goes on from, though the other run is gone.
    shutil.rmtree(base)
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "trained to its last step, 3" in out and "starts from" not in out


def test_a_source_that_is_not_there_is_said_first(tmp_path, monkeypatch, capsys):
    config = str(pathlib.Path("configs/coca_base_576.py").absolute())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config", config, "--workdir", "run", "--config.mesh.fsdp=1"]) == 2
    assert "config.init.path='runs/base': " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
