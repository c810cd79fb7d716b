"""Exported models in onnxruntime, against the models themselves."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from export import random_open_clip, runs
from export.conftest import OPEN_CLIP
from flax import traverse_util
from PIL import Image
from safetensors.numpy import load_file

from coca_jax.data.transforms.images import decode, resize_for_evaluation
from coca_jax.export import export_model
from coca_jax.generate import Greedy, generate
from coca_jax.models import make_model, normalize_pixels

EXAMPLE = pathlib.Path(__file__).parents[2] / "docs/examples/caption_onnx.py"
# Each part of the architecture in both of its forms, and each kind of tokenizer.
MODELS = {
    "paper": (
        "--config.data.tokenizer.kind=sentencepiece",
        "--config.model.text.vocab_size=400",
        "--config.model.pooler.kind=cascade",
    ),
    "open_clip": (
        "--config.data.tokenizer.kind=clip",
        "--config.model.text.vocab_size=49408",
        *OPEN_CLIP,
    ),
}


def sessions(folder):
    """A function that calls an exported model's functions, and `export.json`."""
    description = json.loads((folder / "export.json").read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    opened = {
        name: onnxruntime.InferenceSession(folder / function["file"], options)
        for name, function in description["functions"].items()
    }

    def call(name, **inputs):
        names = [port["name"] for port in description["functions"][name]["outputs"]]
        return dict(zip(names, opened[name].run(names, inputs), strict=True))

    return call, description


def greedy_ids(model, pixels):
    """Captions by the package itself, as ids."""

    def run(params, pixels):
        normalized = normalize_pixels(pixels, model.config.image.mean, model.config.image.std)
        return generate(make_model(model.config), params, normalized, model.decoding(), Greedy())

    return np.asarray(jax.jit(run)(model.params, pixels).ids[:, 0])


def assert_same(model, folder, images):
    """Embeddings and logits to 1e-4, captions token for token, and the example's as texts."""
    size = model.config.image.pixels
    pixels = np.stack([resize_for_evaluation(decode(path.read_bytes()), size) for path in images])
    call, description = sessions(folder)
    captions, logits = runs.greedy(call, description, pixels)
    expected = greedy_ids(model, pixels)
    np.testing.assert_array_equal(captions, expected)
    assert len({tuple(row) for row in expected.tolist()}) >= len(images) // 4  # about the images
    is_text = np.cumsum(expected == model.tokenizer.eos_id, axis=1)[:, :-1] == 0
    ids = runs.texts(model, 7)
    differences = {
        "image": call("image_encoder", pixels=pixels)["embedding"] - model.encode_image(pixels),
        "text": call("text_encoder", ids=ids)["embedding"] - model.encode_text(ids),
        "logits": (logits - model.caption_logits(pixels, expected)[:, :-1])[is_text],
    }
    largest = {name: float(np.abs(values).max()) for name, values in differences.items()}
    assert max(largest.values()) < 1e-4, largest
    texts = model.tokenizer.decode(expected)
    lines = [f"{path}: {text.strip()}\n" for path, text in zip(images, texts, strict=True)]
    assert run_example(folder, images) == "".join(lines)


def run_example(folder, images):
    """What the example prints, in a process without JAX and this package."""
    code = (
        "import runpy, sys; sys.modules |= {'jax': None, 'coca_jax': None, 'flax': None}; "
        f"sys.argv = sys.argv[1:]; runpy.run_path({str(EXAMPLE)!r})"
    )
    command = [sys.executable, "-c", code, "caption_onnx.py", str(folder), *map(str, images)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()  # random captions hold carriage returns


def write_images(folder, size, count):
    """PNG files, twice as large as a model's images and not square.

    The first is to be turned, and the second is in part transparent.
    """
    paths = [folder / f"{i}.png" for i in range(count)]
    images = [Image.fromarray(pixels) for pixels in runs.pixels((2 * size + 6, 2 * size), count)]
    images[1].putalpha(Image.linear_gradient("L").resize(images[1].size))
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    exif = Image.Exif()
    exif[0x112] = 6
    images[0].save(paths[0], exif=exif)
    return paths


@pytest.fixture(
    scope="module", params=["bytes", *(pytest.param(m, marks=pytest.mark.slow) for m in MODELS)]
)
def exported(request, tmp_path_factory, model):
    """A model, and the folder that it is exported to."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in MODELS:
        model = runs.load(runs.make_run(folder / "run", *MODELS[request.param]))
    export_model(model, folder / "onnx", "onnx")
    return model, folder / "onnx"


def test_captions_token_for_token_and_numbers(exported, tmp_path):
    assert_same(*exported, write_images(tmp_path, exported[0].config.image.size, 20))


def test_batches_of_any_size(exported):
    call, description = sessions(exported[1])
    pixels = runs.pixels(exported[0].config.image.pixels, 5)
    together, logits = runs.greedy(call, description, pixels)
    alone, alone_logits = runs.greedy(call, description, pixels[3:4])
    np.testing.assert_array_equal(alone[0], together[3])
    np.testing.assert_allclose(alone_logits[0], logits[3], rtol=0, atol=1e-5)


def test_each_weight_is_stored_once(exported):
    model, folder = exported
    places, references = set(), 0
    for path in folder.glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        assert path.stat().st_size < 150_000
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert place["location"] == "weights.safetensors"
                places.add((tensor.name, int(place["offset"]), int(place["length"])))
                references += 1
    assert references > len(places)  # the text encoder's are the decoder's, too
    stored = load_file(folder / "weights.safetensors")
    assert stored.keys() == {name for name, *_ in places}
    assert sum(leaf.nbytes for leaf in stored.values()) == sum(size for *_, size in places)
    # A bias of all keys changes no attention; similarities are not scaled in the graphs.
    unread = set(traverse_util.flatten_dict(model.params, sep="/")) - stored.keys()
    assert all(name.endswith("attention/key/bias") or name == "logit_scale" for name in unread)


@pytest.mark.slow
def test_converted_open_clip_vit_b_32(tmp_path):
    model = runs.load(random_open_clip.convert("open_clip_vit_b_32", tmp_path))
    export_model(model, tmp_path / "onnx", "onnx")
    assert_same(model, tmp_path / "onnx", write_images(tmp_path, model.config.image.size, 20))
