"""The folder of an exported model: what is in it, and what is refused."""

import copy
import dataclasses
import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.export import export_model, folder


def test_description(model, tmp_path):
    returned = export_model(model, tmp_path / "out", "stablehlo", platforms=["cpu"])
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about == returned
    assert about["platforms"] == ["cpu"] and about["model"] == model.identity
    tokenizer = {"kind": "byte", "files": [], "vocab_size": 259}
    assert about["tokenizer"] == tokenizer | {"pad_id": 0, "bos_id": 1, "eos_id": 2}
    text, image = model.config.text, model.config.image
    assert about["captions"] == {"length": text.context_length, "suppress": [0, 1, 259]}
    assert about["preprocessing"]["mean"] == list(image.mean)
    assert about["preprocessing"]["height"] == image.size
    scale = np.exp(float(model.params["logit_scale"]))
    assert about["similarity"] == {"scale": pytest.approx(scale), "bias": 0}
    (pixels,) = about["functions"]["image_encoder"]["inputs"]
    assert pixels == {
        "name": "pixels",
        "shape": ["batch", image.size, image.size, 3],
        "dtype": "uint8",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "export.json",
        "weights.safetensors",
        *(f"{name}.stablehlo" for name in ("image_encoder", "text_encoder", "decoder")),
    }
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1


def changed(model, **changes):
    """A model as if it had been trained with other settings."""
    result = copy.copy(model)
    result.config = dataclasses.replace(model.config, **changes)
    if not result.config.has_cls:  # which has a position of its own
        decoder = model.params["decoder"]
        positions = {"positions": decoder["positions"][:-1]}
        result.params = model.params | {"decoder": decoder | positions}
    pooler, has_cls = model.params["pooler"], int(result.config.has_cls)  # the first query's
    queries = pooler["queries"][1 - has_cls : None if result.config.captioning else 1]
    result.params = result.params | {"pooler": pooler | {"queries": queries}}
    return result


@pytest.mark.parametrize(
    ("weight", "functions", "outputs", "message"),
    [
        ("captioning", ["image_encoder", "text_encoder"], ["embedding"], "no decoder"),
        pytest.param(
            "contrastive",
            ["image_encoder", "decoder"],
            ["image_keys", "image_values"],
            "no text_encoder",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_loss_less(weight, functions, outputs, message, model, tmp_path, capsys, monkeypatch):
    without = {"captioning": {"captioning": False}, "contrastive": {"contrastive": "none"}}
    monkeypatch.setattr("coca_jax.inference.load", lambda path: changed(model, **without[weight]))
    arguments = ["export", "run", str(tmp_path / "out"), "--format", "onnx"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr()
    assert f"without the {weight} loss" in printed.err and message in printed.err
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert list(about["functions"]) == functions
    image_encoder = about["functions"]["image_encoder"]
    assert [port["name"] for port in image_encoder["outputs"]] == outputs
    assert ("captions" in about) == ("decoder" in functions)


def test_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for out, arguments, message in (
        ("full", ["--format", "stablehlo"], "full is not empty"),
        ("file", ["--format", "stablehlo"], "file is a file"),
        ("new", ["--format", "onnx"], "pip install coca_jax[onnx]"),
        ("bad\udcff", ["--format", "onnx"], "is not UTF-8, as the package onnx demands"),
        ("new", ["--format", "onnx", "--dtype", "bfloat16"], "is for --format stablehlo"),
        ("new", ["--format", "onnx", "--platforms", "cpu"], "--platforms is for --format stableh"),
        ("new", ["--format", "stablehlo", "--platforms", "cpu,gpu"], "--platforms 'gpu': should"),
        ("new", ["--format", "stablehlo", "--platforms", ""], "--platforms '': should"),
    ):
        assert cli.main(["export", "no_such_model", str(tmp_path / out), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "no_such_model", str(tmp_path / "new"), "--format", "tflite"])
    assert stopped.value.code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name == "new"] == []
    assert cli.main(["export", "no_such_model", "gs://bucket/out", "--format", "stablehlo"]) == 2
    assert "to a local folder" in capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch):
    """Exports without functions, which take seconds to trace."""
    monkeypatch.setattr(folder, "trace_functions", lambda *arguments: [])
    monkeypatch.setattr(folder, "_write_functions", lambda out, *_: (out / "weights").touch())


@pytest.mark.parametrize(("given", "at"), [(".", "out"), ("../out", "out"), ("out", ".")])
def test_an_empty_folder_stays(quick, model, tmp_path, monkeypatch, given, at):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(tmp_path / at)
    before = out.stat().st_ino
    left = [at / f".{name}.{'0a' * 16}" for at, name in ((out, "unfinished"), (tmp_path, "out"))]
    for path in left:  # by a process that was killed
        path.mkdir()
        os.utime(path, (1, 1))
    monkeypatch.setattr(pathlib.Path, "replace", None)  # as of a mount point
    export_model(model, given, "stablehlo", platforms=["cpu"])
    assert out.stat().st_ino == before
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "weights"]
    assert [*tmp_path.iterdir()] == [out]


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_is_left_where_the_disk_is_full(model, tmp_path, monkeypatch, exists):
    if exists:
        (tmp_path / "out").mkdir()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "trace_functions", lambda *arguments: [])
    monkeypatch.setattr(folder, "_write_functions", fail)
    with pytest.raises(UserError, match="out cannot be written: No space left on device"):
        export_model(model, tmp_path / "out", "stablehlo", platforms=["cpu"])
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"] * exists


def test_a_model_without_both_losses(model, tmp_path):
    head = changed(model, contrastive="none", captioning=False)
    with pytest.raises(UserError, match="without the contrastive and the captioning loss"):
        export_model(head, tmp_path / "out", "stablehlo")
