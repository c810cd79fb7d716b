"""Exported models read back by `jax.export`, against the models themselves."""

import copy
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from export import runs
from safetensors.numpy import load_file

from coca_jax.export import export_model


def functions(folder):
    """A function that calls an exported model's functions, and `export.json`."""
    description = json.loads((folder / "export.json").read_text())
    stored = load_file(folder / description["weights"])
    exported = {
        name: jax.export.deserialize((folder / function["file"]).read_bytes())
        for name, function in description["functions"].items()
    }

    compiled = {name: jax.jit(function.call) for name, function in exported.items()}

    def call(name, **inputs):
        function = description["functions"][name]
        weights = {weight: stored[weight] for weight in function["weights"]}
        arguments = [inputs[port["name"]] for port in function["inputs"]]
        return compiled[name](weights, *arguments)

    return call, description, exported


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return runs.load(runs.make_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export_model(model, folder, "stablehlo")
    return folder


def test_embeddings_and_logits(model, folder):
    call, description, _ = functions(folder)
    pixels, ids = runs.pixels(model.config.image.pixels, 3), runs.texts(model, 4)
    images = call("image_encoder", pixels=pixels)["embedding"]
    np.testing.assert_allclose(images, model.encode_image(pixels), rtol=0, atol=1e-6)
    texts = call("text_encoder", ids=ids)["embedding"]
    np.testing.assert_allclose(texts, model.encode_text(ids), rtol=0, atol=1e-6)
    captions, logits = runs.greedy(call, description, pixels)
    expected = model.caption_logits(pixels, captions)[:, :-1]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    one = call("image_encoder", pixels=pixels[1:2])["embedding"]
    np.testing.assert_allclose(one[0], images[1], rtol=0, atol=1e-6)


def test_for_the_platforms_asked_whatever_the_device_prefers(model, folder, tmp_path):
    there = copy.copy(model)  # as it is loaded where attention has kernels of its own
    there.config = dataclasses.replace(model.config, attention="pallas", remat="full")
    export_model(there, tmp_path / "out", "stablehlo", platforms=["tpu", "cpu"])
    *_, exported = functions(tmp_path / "out")
    for name, function in functions(folder)[2].items():
        assert function.platforms == ("cpu", "cuda", "tpu")
        assert exported[name].platforms == ("tpu", "cpu")
        # Nothing that only one kind of device has.
        calls = re.findall(r"custom_call @(\w+)", exported[name].mlir_module())
        assert set(calls) <= {"shape_assertion"}


def test_bfloat16_is_near_and_half_the_size(model, folder, tmp_path):
    export_model(model, tmp_path / "out", "stablehlo", "bfloat16", ["cpu"])
    call, description, _ = functions(tmp_path / "out")
    pixels = runs.pixels(model.config.image.pixels, 3)
    outputs = call("image_encoder", pixels=pixels)
    assert outputs["image_keys"].dtype == jax.numpy.bfloat16
    cosines = np.sum(outputs["embedding"] * model.encode_image(pixels), axis=-1)
    assert cosines.min() > 0.999
    captions, logits = runs.greedy(call, description, pixels)
    expected = model.caption_logits(pixels, captions)[:, :-1]
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    sizes = [(f / "weights.safetensors").stat().st_size for f in (tmp_path / "out", folder)]
    assert sizes[0] < 0.6 * sizes[1]
