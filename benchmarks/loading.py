"""Seconds from a converted coca_ViT-B-32 on disk to its first image embedding.

    python benchmarks/loading.py --json loading.json

Each turn is a process of its own, from its start to the embedding of one image: first with an
empty compilation cache (JAX_COMPILATION_CACHE_DIR), then with the one that the first has filled.
The weights are random; their files have just been written, and so are in the system's memory.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import flax.linen as nn
import jax
import numpy as np
from safetensors.numpy import save_file

from coca_jax.interop.convert import import_open_clip
from coca_jax.interop.open_clip import to_open_clip
from coca_jax.interop.open_clip_config import settings
from coca_jax.models import PRESETS, CoCa, init_params

VARIANT = "open_clip_vit_b_32"
SMOKE = {"repeats": 1}
SCRIPT = """
import sys
import numpy as np
import coca_jax
model = coca_jax.load(sys.argv[1])
size = model.config.image.size
assert np.isfinite(model.encode_image(np.zeros((1, size, size, 3), np.uint8))).all()
"""


def small():
    """The variant with one layer of a few numbers in each part."""
    sizes = {"width": 64, "num_heads": 2, "mlp_dim": 256}
    preset = PRESETS[VARIANT]
    image = dataclasses.replace(preset.image, num_layers=1, **sizes)
    text = dataclasses.replace(preset.text, unimodal_layers=1, multimodal_layers=1, **sizes)
    return dataclasses.replace(preset, image=image, text=text, embed_dim=64)


def convert(folder, config):
    """Random weights of an OpenCLIP model, converted as a user would."""
    model = CoCa(config)
    params = jax.jit(lambda: nn.meta.unbox(init_params(model, jax.random.key(0))))()
    tensors = to_open_clip(jax.tree.map(np.asarray, params), model.config)
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    save_file(contiguous, folder / "weights.safetensors")
    (folder / "variant.json").write_text(json.dumps(settings(config)))
    import_open_clip(folder / "weights.safetensors", folder / "variant.json", folder / "model")


def seconds(folder):
    """Seconds of one process."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    begin = time.perf_counter()
    command = [sys.executable, "-c", SCRIPT, str(folder / "model")]
    subprocess.run(command, env=os.environ | cache, check=True)
    return time.perf_counter() - begin


def main():
    """Prints both figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        convert(folder, small() if options.smoke else PRESETS[VARIANT])
        cold = seconds(folder)
        warm = statistics.median(seconds(folder) for _ in range(options.repeats))
    print(f"to the first embedding: {cold:.1f} s, with a warm compilation cache {warm:.1f} s")
    if options.json:
        options.json.write_text(json.dumps({"cold": cold, "warm": warm}, indent=1))


if __name__ == "__main__":
    main()
