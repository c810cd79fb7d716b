import json

import numpy as np
import pytest
from reference.open_clip import FOLDER

import coca_jax
from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.interop.weights import read_tensors


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


def test_the_command_there_and_back(folder, square):
    out = folder / "out.safetensors"
    assert cli.main(["convert", "--to", "open_clip", str(folder / "model"), str(out)]) == 0
    back = read_tensors(out)
    assert back.keys() == square.tensors.keys()
    for name, tensor in square.tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_converted_model_loads_and_is_open_clips(folder, square):
    model, outputs = coca_jax.load(folder / "model"), square.outputs
    ids = outputs["ids"].astype(np.int32)
    found = {
        "image_embeddings": model.encode_image(outputs["pixels"]),
        "text_embeddings": model.encode_text(ids),
        "caption_logits": model.caption_logits(outputs["pixels"], ids)[:, :-1],
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, outputs[name], rtol=0, atol=1e-4, err_msg=name)


def test_it_carries_tokenizer_and_preprocessing(folder):
    model = coca_jax.load(folder / "model")
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
    found = coca_jax.load(folder / "correct").encode_text(ids)
    expected = square.outputs["correct_cls_mask/text_embeddings"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_mistakes(folder, square, tmp_path, capsys):
    model, file, out = folder / "model", square.file, tmp_path / "out"
    known = ["--variant", "open_clip_vit_b_32"]
    calls = {
        "is not empty": ["--from", "open_clip", *known, file, model],
        "needs --variant": ["--from", "open_clip", file, out],
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
