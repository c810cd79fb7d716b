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
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export_model(model, folder, "stablehlo")
    return folder


def test_embeddings_and_logits(model, folder):
    call, description, _ = functions(folder)
    pixels, ids = runs.pixels(model.config.image.pixels, 20), runs.texts(model, 7)
    images = call("image_encoder", pixels=pixels)["embedding"]
    np.testing.assert_allclose(images, model.encode_image(pixels), rtol=0, atol=1e-6)
    texts = call("text_encoder", ids=ids)["embedding"]
    np.testing.assert_allclose(texts, model.encode_text(ids), rtol=0, atol=1e-6)
    captions, logits = runs.greedy(call, description, pixels)
    expected = model.caption_logits(pixels, captions)[:, :-1]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    one = call("image_encoder", pixels=pixels[1:2])["embedding"]
    np.testing.assert_allclose(one[0], images[1], rtol=0, atol=1e-6)


def test_for_the_platforms_asked_whatever_the_device_prefers(folder, half):
    *_, exported = functions(half)
    for name, function in functions(folder)[2].items():
        assert function.platforms == ("cpu", "cuda", "tpu")
        assert exported[name].platforms == ("tpu", "cpu")
        # Nothing that only one kind of device has.
        calls = re.findall(r"custom_call @(\w+)", exported[name].mlir_module())
        assert set(calls) <= {"shape_assertion"}


@pytest.fixture(scope="module")
def half(model, tmp_path_factory):
    """The folder of the model in bfloat16, as it is loaded where attention has its own kernels."""
    there = copy.copy(model)
    there.config = dataclasses.replace(model.config, attention="pallas", remat="full")
    folder = tmp_path_factory.mktemp("half") / "out"
    export_model(there, folder, "stablehlo", "bfloat16", ["tpu", "cpu"])
    return folder


@pytest.mark.slow
def test_bfloat16_is_near_and_half_the_size(model, folder, half):
    call, *_ = functions(half)
    pixels = runs.pixels(model.config.image.pixels, 20)
    outputs = call("image_encoder", pixels=pixels)
    assert outputs["image_keys"].dtype == jax.numpy.bfloat16
    cosines = np.sum(outputs["embedding"] * model.encode_image(pixels), axis=-1)
    assert cosines.min() > 0.999
    sizes = [(f / "weights.safetensors").stat().st_size for f in (half, folder)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.slow
def test_logits_in_bfloat16_are_near(model, half):
    call, description, _ = functions(half)
    pixels = runs.pixels(model.config.image.pixels, 20)
    captions, logits = runs.greedy(call, description, pixels)
    expected = model.caption_logits(pixels, captions)[:, :-1]
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
