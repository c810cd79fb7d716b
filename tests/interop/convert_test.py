import json
import os

import jax
import numpy as np
import pytest
from reference.open_clip import FOLDER
from reference.torch_writer import Call, Global, save
from safetensors.numpy import load_file, save_file

import coca_jax
from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint
from coca_jax.interop.convert import stored_as
from coca_jax.interop.open_clip_model import open_model


@pytest.fixture(scope="module")
def folder(square, tmp_path_factory):
    """Holds `square.json`, and the model converted with the command."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "square.json").write_text(json.dumps(square.settings))
    assert convert(folder, square.file, folder / "model") == 0
    return folder


def convert(folder, file, output, *options):
    variant = ("--variant", str(folder / "square.json"))
    return cli.main(["convert", "--from", "open_clip", *variant, *options, str(file), str(output)])


@pytest.fixture(scope="module")
def model(folder):
    """The converted model, on one device: programs of several take longer to compile."""
    return load(folder / "model")


def load(folder):
    return coca_jax.load(folder, devices=jax.devices()[:1])


def test_the_command_there_and_back(folder, square):
    out = folder / "out.safetensors"
    assert cli.main(["convert", "--to", "open_clip", str(folder / "model"), str(out)]) == 0
    back = load_file(out)
    assert back.keys() == square.tensors.keys()
    for name, tensor in square.tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_converted_model_loads_and_is_open_clips(model, square):
    outputs = square.outputs
    ids = outputs["ids"].astype(np.int32)
    found = {
        "image_embeddings": model.encode_image(outputs["pixels"]),
        "text_embeddings": model.encode_text(ids),
        "caption_logits": model.caption_logits(outputs["pixels"], ids)[:, :-1],
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, outputs[name], rtol=0, atol=1e-4, err_msg=name)


def test_it_carries_tokenizer_and_preprocessing(model):
    rows = json.loads((FOLDER / "tokens.json").read_text())
    text, ids = next((row["text"], row["ids"]) for row in rows if 4 < len(row["ids"]) < 12)
    assert model.tokenizer.encode([text], 12)[0, : len(ids)].tolist() == ids
    with pytest.raises(UserError, match="49408 ids and the model 96"):  # this tiny one's are fewer
        model.tokenize([text])
    with np.load(FOLDER / "pixels/pixels.npz") as file:
        for name in file:
            pixels = model.preprocess([FOLDER / "pixels" / name])[0]
            std = np.array(model.config.image.std)
            assert np.abs((pixels - file[name]) * std).max() <= 1 / 255 + 1e-6, name


def test_the_cls_mask_can_be_the_right_one(folder, square):
    assert convert(folder, square.file, folder / "correct", "--cls-mask", "correct") == 0
    ids = square.outputs["ids"].astype(np.int32)
    found = load(folder / "correct").encode_text(ids)
    expected = square.outputs["correct_cls_mask/text_embeddings"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def hub(square, tmp_path_factory):
    """A folder as on a hub, with a training checkpoint that holds more than weights."""
    folder = tmp_path_factory.mktemp("hub")
    scalar = Call(Global("numpy._core.multiarray", "scalar"), (1, b"12345678"))
    checkpoint = {
        "args": Call(Global("argparse", "Namespace"), state={"lr": scalar}),
        "state_dict": {f"module.{name}": value for name, value in square.tensors.items()},
        "optimizer": {"state": {0: {"step": scalar, "exp_avg": np.ones(3, np.float32)}}},
    }
    save(folder / "open_clip_pytorch_model.bin", checkpoint)
    config = {"model_cfg": square.settings, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (folder / "open_clip_config.json").write_text("\ufeff" + json.dumps(config))
    return folder


def test_a_hubs_folder_says_what_it_holds(hub, model, square, tmp_path, capsys):
    call = ["convert", "--from", "open_clip", str(hub), str(tmp_path / "model")]
    assert cli.main(call) == 0
    assert "read state_dict; tensors left out: 3" in capsys.readouterr().err
    found = load(tmp_path / "model")
    assert found.config.image.mean == (0.1, 0.2, 0.3)
    ids = square.outputs["ids"].astype(np.int32)
    expected = model.encode_text(ids)
    np.testing.assert_array_equal(found.encode_text(ids), expected)


def test_a_hubs_folder_loads_as_it_is(hub, model, square, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {path.name for path in hub.iterdir()}
    found = load(hub)
    assert {path.name for path in hub.iterdir()} == files
    assert "read state_dict; tensors left out: 3" in capsys.readouterr().err
    assert found.config.image.mean == (0.1, 0.2, 0.3) and found.config.text.shifted_cls_mask
    ids, pixels = square.outputs["ids"].astype(np.int32), square.outputs["pixels"]
    np.testing.assert_array_equal(found.encode_text(ids), model.encode_text(ids))
    np.testing.assert_array_equal(found.encode_image(pixels), model.encode_image(pixels))
    assert str(found.source.workdir).startswith(str(tmp_path / "cache"))


def test_the_identity_is_that_of_weights_and_configuration(hub, tmp_path):
    names = ("open_clip_pytorch_model.bin", "open_clip_config.json")
    for name in names:
        (tmp_path / name).write_bytes((hub / name).read_bytes())
    weights, config = (tmp_path / name for name in names)
    same = find_checkpoint(hub).identity
    assert find_checkpoint(tmp_path).identity == find_checkpoint(weights).identity == same
    config.write_text(config.read_text().replace("0.1", "0.15"))
    other = find_checkpoint(tmp_path).identity
    weights.write_bytes(weights.read_bytes() + b" ")
    assert len({same, other, find_checkpoint(tmp_path).identity}) == 3


def test_half_precision_can_be_kept(folder, square, tmp_path):
    half = {name: value.astype(np.float16) for name, value in square.tensors.items()}
    half["logit_scale"] = half["logit_scale"].reshape(1)
    save_file(half, tmp_path / "half.safetensors")
    assert convert(folder, tmp_path / "half.safetensors", tmp_path / "m", "--dtype", "float16") == 0
    stored = find_checkpoint(tmp_path / "m").shapes("params")
    assert {leaf.dtype for leaf in stored.values()} == {np.dtype(np.float16)}
    out = tmp_path / "out.safetensors"
    assert (
        cli.main(["convert", "--to", "open_clip", "--dtype=float16", f"{tmp_path}/m", str(out)])
        == 0
    )
    for name, value in load_file(out).items():
        np.testing.assert_array_equal(value, half[name].reshape(value.shape), err_msg=name)


def test_a_type_that_cannot_hold_the_weights_is_refused(folder, square, tmp_path, capsys):
    large = square.tensors | {"text.cls_emb": square.tensors["text.cls_emb"] + 1e6}
    save_file(large, tmp_path / "large.safetensors")
    file, out = tmp_path / "large.safetensors", tmp_path / "m"
    assert convert(folder, file, out, "--dtype", "float16") == 2
    assert "float16 cannot hold all weights" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite_are_not_written(dtype):
    params = {"good": np.ones(2, np.float32), "bad": np.array([1, np.nan], np.float32)}
    with pytest.raises(UserError, match="NaN or infinity is in 1 of the model's 2 tensors"):
        stored_as(params, dtype)


def test_a_file_names_what_it_does_not_say(folder, tmp_path, capsys):
    for name in ("out.safetensors", "OUT.SAFETENSORS"):
        out = tmp_path / name
        code = cli.main(["convert", "--to", "open_clip", str(folder / "model"), str(out)])
        assert code == (0 if name.islower() else 2) and not out.is_dir()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("in OpenCLIP: images are prepared by mean=[0.48")
    assert shown[0].endswith("interpolation=bicubic, resize_mode=shortest, fill_color=0")


@pytest.mark.parametrize("to", ["coca", "open_clip"])
def test_an_empty_folder_stays(to, folder, tmp_path, monkeypatch):
    """It may be a mount point, or the one that the user's shell is in."""
    monkeypatch.chdir(tmp_path)
    left = tmp_path / f".unfinished.{'0a' * 16}"  # by a process that was killed
    left.mkdir()
    os.utime(left, (1, 1))
    before = tmp_path.stat().st_ino
    assert cli.main(["convert", "--to", to, str(folder / "model"), "."]) == 0
    assert tmp_path.stat().st_ino == before and not left.exists()
    assert find_checkpoint(tmp_path).config is not None


def test_a_variant_can_be_a_hubs_folder_or_configuration(hub, square, tmp_path):
    for number, variant in enumerate((hub, hub / "open_clip_config.json")):
        options = ["--from", "open_clip", "--variant", str(variant)]
        out = tmp_path / str(number)
        assert cli.main(["convert", *options, str(square.file), str(out)]) == 0


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"tokenizer": []}, r"coca_jax\.tokenizer=\[\] should be a word"),
        ({"shifted_cls_mask": "no"}, r"coca_jax\.shifted_cls_mask='no' should be true or false"),
        ([], r"coca_jax should hold settings, not \[\]"),
        ({"tokenizer": "words"}, "its tokenizer 'words' is none of clip, byte"),
    ],
)
def test_our_own_settings_are_checked(square, tmp_path, own, said):
    content = {"model_cfg": square.settings, "coca_jax": own}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        open_model(tmp_path)


def test_the_tokenizers_checksum_is_kept(square, tmp_path):
    content = {"model_cfg": square.settings, "coca_jax": {"tokenizer": "sentencepiece"}}
    save_file(square.tensors, tmp_path / "a.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer.model").write_bytes(b"words")
    out = tmp_path / "out"
    assert cli.main(["convert", "--from", "open_clip", str(tmp_path), str(out)]) == 0
    assert find_checkpoint(out).title == f"{out}, step 0"
    (out / "tokenizer.model").write_bytes(b"other words")
    with pytest.raises(UserError, match=r"tokenizer\.model"):
        find_checkpoint(out)


def test_errors(folder, square, tmp_path, capsys):
    model, file, out = folder / "model", square.file, tmp_path / "out"
    known = ["--variant", "open_clip_vit_b_32"]
    calls = {
        "is not empty": ["--from", "open_clip", *known, file, model],
        "needs --variant, such as open_clip_vit_b_32: there is no": [
            *("--from", "open_clip"),
            *(file, out),
        ],
        "none.pt does not exist": ["--from", "open_clip", tmp_path / "none.pt", out],
        "none.json cannot be read": [
            *("--from", "open_clip", "--variant", tmp_path / "none.json"),
            *(file, out),
        ],
        "variant 'base' is not known": ["--from", "open_clip", "--variant", "base", file, out],
        "of another shape: text.cls_emb (16,), should be (512,)": [
            *("--from", "open_clip"),
            *(*known, file, out),
        ],
        "should be named .safetensors": ["--to", "open_clip", model, tmp_path / "out.bin"],
        "cannot be written": ["--to", "open_clip", model, tmp_path / "none/out.safetensors"],
        "--variant is for --from": ["--to", "open_clip", *known, model, out],
        "no config.json": ["--to", "open_clip", tmp_path, tmp_path / "out.safetensors"],
    }
    for said, words in calls.items():
        assert cli.main(["convert", *map(str, words)]) == 2, said
        assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def as_int8(folder):
    """The converted model, with matrices as int8."""
    out = folder / "int8"
    words = ["convert", "--to", "coca", "--dtype", "int8", str(folder / "model"), str(out)]
    assert cli.main(words) == 0
    return out


def test_matrices_as_int8_stay_so_in_memory_and_change_little(as_int8, model, square):
    loaded = load(as_int8)
    leaves = jax.tree.leaves(loaded.params)
    assert {str(leaf.dtype) for leaf in leaves} == {"int8", "float32"}
    sizes = [sum(x.nbytes for x in jax.tree.leaves(m.params)) for m in (loaded, model)]
    assert sizes[0] < 0.5 * sizes[1]
    pixels, ids = square.outputs["pixels"], square.outputs["ids"].astype(np.int32)
    for found, expected in (
        (loaded.encode_image(pixels), model.encode_image(pixels)),
        (loaded.encode_text(ids), model.encode_text(ids)),
    ):
        cosines = np.sum(found * expected, axis=1)
        assert np.all(cosines > 0.995) and not np.array_equal(found, expected)
    logits, expected = (m.caption_logits(pixels, ids) for m in (loaded, model))
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def test_floats_are_made_of_int8_for_other_commands(as_int8, folder, square, tmp_path):
    file = tmp_path / "a.safetensors"
    assert cli.main(["convert", "--to", "open_clip", str(as_int8), str(file)]) == 0
    for name, tensor in load_file(file).items():
        wanted = square.tensors[name]
        assert tensor.dtype == wanted.dtype
        np.testing.assert_allclose(tensor, wanted, rtol=0, atol=np.abs(wanted).max() / 250)
    assert cli.main(["convert", "--to", "coca", str(as_int8), str(tmp_path / "floats")]) == 0
    assert {str(x.dtype) for x in jax.tree.leaves(load(tmp_path / "floats").params)} == {"float32"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "open_clip", "--dtype", "int8"], "--dtype int8 is for --to coca"),
        (["--from", "open_clip", "--dtype", "int8"], "then `coca convert --to coca --dtype int8 "),
        (["--to", "coca", "--license", "mit"], "--license is for models of other projects"),
        (["--to", "coca", "--cls-mask", "correct"], "--cls-mask is for models of other projects"),
    ],
)
def test_options_of_another_direction_are_refused(words, message, folder, tmp_path, capsys):
    assert cli.main(["convert", *words, str(folder / "model"), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
