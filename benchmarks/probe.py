"""Probes of frozen features: the first, which encodes the images, against later ones.

    python benchmarks/probe.py --json probe.json

The image encoder is a ViT-B/32 with random parameters; images are noise of a color for each class,
in files of 224 x 224 pixels. Each turn is a whole evaluation, from opening the data to metrics. The
first one has an empty cache of features, and compiles; "again, compiled anew" is what a new process
does once it has loaded its model.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import cv2
import flax.linen as nn
import jax
import numpy as np

from coca_jax.config import default_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.evaluate.runner import evaluate
from coca_jax.inference import LoadedModel
from coca_jax.models import PRESETS, CoCa, init_params
from coca_jax.models.config import TextConfig

CLASSES = 8
PIXELS = 224
SMOKE = {"train": 16, "test": 8, "layers": 1, "pooler_steps": 2}


def write_images(folder, count, rng):
    """Writes a folder for each class, whose noise has a color of its own."""
    colors = np.random.default_rng(0).integers(64, 192, (CLASSES, 3))
    for i in range(count):
        place = folder / str(i % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(colors[i % CLASSES], 40, (PIXELS, PIXELS, 3))
        cv2.imwrite(str(place / f"{i:05}.jpg"), noise.clip(0, 255).astype(np.uint8))


def make_model(layers):
    """A ViT-B/32, with all of its layers or fewer, and the smallest of decoders."""
    text = TextConfig(
        512, 16, width=64, num_heads=2, mlp_dim=64, unimodal_layers=1, multimodal_layers=1
    )
    preset = PRESETS["open_clip_vit_b_32"]
    image = dataclasses.replace(preset.image, num_layers=layers or preset.image.num_layers)
    text = dataclasses.replace(text, interleaved=True)
    model = CoCa(dataclasses.replace(preset, image=image, text=text))
    params = nn.meta.unbox(jax.jit(lambda key: init_params(model, key))(jax.random.key(0)))
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    return LoadedModel(model, params, make_tokenizer("byte", ""), partitioner, 0, "random")


def main():
    """Prints seconds of each turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=512)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--pooler-steps", type=int, default=20)
    parser.add_argument("--layers", type=int, help="of the image encoder; default: 12")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    loaded, rng, results = make_model(options.layers), np.random.default_rng(1), {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_images(folder / "train", options.train, rng)
        write_images(folder / "test", options.test, rng)
        config = default_config()
        config.data.cache_dir = str(folder / "cache")
        probe = {"kind": "probe", "format": "folder"}
        probe |= {"path": str(folder / "test"), "train_path": str(folder / "train")}

        def turn(name, **others):
            config.eval = {"probe": probe | others}
            begin = time.perf_counter()
            metrics = evaluate(loaded, config).metrics["probe"]
            results[name] = {"seconds": time.perf_counter() - begin, "top1": metrics["top1"]}
            ratio = results["first"]["seconds"] / results[name]["seconds"]
            print(
                f"{name:<32}{results[name]['seconds']:>8.2f} s{ratio:>8.1f}{metrics['top1']:>8.3f}"
            )

        turn("first")
        turn("again")
        turn("another penalty", l2=1e-2)
        steps = options.pooler_steps
        turn(f"pooler, {steps} steps", scoring="pooler", steps=steps, batch_size=64)
        jax.clear_caches()
        turn("again, compiled anew")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
