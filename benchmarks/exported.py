"""An exported model in onnxruntime against the model itself: numbers, captions and speed.

    pip install "coca_jax[onnx]" onnxruntime
    python benchmarks/exported.py --model runs/shapes --json exported.json

Without --model, a coca_ViT-B-32 with random weights on the scales of OpenCLIP's layers is converted
and exported. Both embed and caption the same images, greedily and to the model's text length. They
take turns; medians, after a first turn that compiles. `different` is how many of the captions are.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
import onnxruntime

import coca_jax
from coca_jax.export import export_model

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from export import random_open_clip, runs  # noqa: E402

SMOKE = {"repeats": 1, "images": 2}


def onnx_functions(folder):
    """A function that calls an exported model's functions, and `export.json`."""
    about = json.loads((folder / "export.json").read_text())
    sessions = {
        name: onnxruntime.InferenceSession(folder / function["file"])
        for name, function in about["functions"].items()
    }

    def call(name, **inputs):
        names = [port["name"] for port in about["functions"][name]["outputs"]]
        return dict(zip(names, sessions[name].run(names, inputs), strict=True))

    return call, about


def numbers(model, call, about, pixels):
    """How far the exported model is from the model, and what of the captions is equal."""
    captions, logits = runs.greedy(call, about, pixels)
    texts = model.tokenizer.decode(captions)
    expected = [caption.text for caption in model.caption(pixels)]
    is_text = np.cumsum(captions == model.tokenizer.eos_id, axis=1)[:, :-1] == 0
    ids = runs.texts(model, 7)
    differences = {
        "images": call("image_encoder", pixels=pixels)["embedding"] - model.encode_image(pixels),
        "texts": call("text_encoder", ids=ids)["embedding"] - model.encode_text(ids),
        "logits": (logits - model.caption_logits(pixels, captions)[:, :-1])[is_text],
    }
    return {
        "largest_difference": {k: float(np.abs(v).max()) for k, v in differences.items()},
        "captions": len(texts),
        "equal": sum(a == b for a, b in zip(texts, expected, strict=True)),
        "different": len(set(expected)),
        "with_an_end": int((~is_text[:, -1]).sum()),
    }


def median_seconds(functions, repeats):
    """Median seconds of each function; they take turns, after each was called once."""
    seconds = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def measure(path, folder, options):
    """All figures of the model at a path, exported to a folder."""
    model = coca_jax.load(path, devices=jax.devices()[:1])
    begin = time.perf_counter()
    export_model(model, folder, "onnx")
    seconds = {"export": time.perf_counter() - begin}
    begin = time.perf_counter()
    call, about = onnx_functions(folder)
    seconds["sessions"] = time.perf_counter() - begin
    pixels = runs.pixels(model.config.image.pixels, options.images)
    functions = {
        "embed, onnxruntime": lambda: call("image_encoder", pixels=pixels),
        "embed, jax": lambda: model.encode_image(pixels),
        "caption, onnxruntime": lambda: runs.greedy(call, about, pixels),
        "caption, jax": lambda: model.caption(pixels),
    }
    seconds |= median_seconds(functions, options.repeats)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return {**numbers(model, call, about, pixels), "seconds": seconds, "bytes": sizes}


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory() as name:
        folder, path = pathlib.Path(name), options.model
        if path is None and options.smoke:
            path = runs.make_run(folder / "run")
        elif path is None:
            path = random_open_clip.convert("open_clip_vit_b_32", folder)
        figures = measure(path, folder / "exported", options)
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
