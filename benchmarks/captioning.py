"""Captions by beam search, against OpenCLIP's own `generate()` on the same weights.

    pip install torch==2.13.0
    pip install --no-deps torchvision==0.28.0 open_clip_torch==3.3.0 timm
    pip install ftfy regex tqdm requests wcwidth pyyaml transformers==4.55.4 "huggingface_hub<1"
    python benchmarks/captioning.py --json captioning.json

A coca_ViT-B-32 with random weights is written by OpenCLIP, converted with `coca convert` and loaded
with `coca_jax.load`. Both caption the same images with 6 beams (OpenCLIP also with its default of
three groups of two), 30 tokens, none of which but the last may end it. They take turns; medians.
OpenCLIP's beams add raw logits and so find other texts than a right beam search does: speeds are
compared here, and words in tests/interop/generation_test.py.

Limits: a step must read every weight of the decoder once (over the measured bandwidth of memory),
and multiply them with every beam (over the measured rate of matmuls).
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import loading
import numpy as np
from safetensors.numpy import save_file

import coca_jax
from coca_jax.interop.convert import import_open_clip

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEAMS = 6
SMOKE = {"repeats": 1, "batches": [1], "length": 5}


def open_clip_model(options):
    """OpenCLIP's model with random weights, and torch; None: `--smoke` does without them."""
    sys.path.append(str(ROOT / "tests/fixtures/open_clip"))
    try:
        from environment import open_clip, torch
    except ModuleNotFoundError as error:
        if not options.smoke:
            raise
        print(f"without OpenCLIP: {error}")
        return None
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = open_clip.create_model("coca_ViT-B-32").eval()
    with torch.no_grad():
        model.text_decoder.text_projection.normal_(std=0.05)  # OpenCLIP never initializes it
    return model, torch


def our_model(folder):
    """A small model with random weights, where there is no OpenCLIP."""
    loading.convert(folder, loading.small())
    return coca_jax.load(folder / "model")


def convert(model, folder):
    """OpenCLIP's model, converted and loaded by us."""
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")
    import_open_clip(folder / "weights.safetensors", "open_clip_vit_b_32", folder / "model")
    return coca_jax.load(folder / "model")


def rates(smoke):
    """Bytes per second that a sum reads, and floating-point operations per second of a matmul."""
    size = 128 if smoke else 2048
    data, factor = jnp.ones(32 * size**2, jnp.float32), jnp.ones((size, size), jnp.float32)
    total, product = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    read = median_seconds({"": lambda: total(data).block_until_ready()}, 5)[""]
    multiplied = median_seconds({"": lambda: product(factor, factor).block_until_ready()}, 5)[""]
    return data.nbytes / read, 2 * size**3 / multiplied


def decoder_weights(model):
    """How many weights a step of decoding multiplies with: all but what only the image meets."""
    decoder = model.params["decoder"]
    count = decoder["lm_head"].size
    for path, leaf in jax.tree_util.tree_leaves_with_path(decoder):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        once = "cross_attention/key" in name or "cross_attention/value" in name
        if "layer_" in name and leaf.ndim == 2 and not once:
            count += leaf.size
    return count


def median_seconds(functions, repeats):
    """Median seconds of each function; they take turns, after ours was called once (to compile)."""
    seconds = {name: [] for name in functions}
    next(iter(functions.values()))()
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peers(theirs, torch, pixels, length):
    """OpenCLIP's ways to caption these images."""
    same = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    def generate(groups):
        with torch.no_grad():
            made = theirs.generate(
                same,
                num_beams=BEAMS,
                num_beam_groups=groups,
                seq_len=length,
                min_seq_len=length - 1,
            )
        assert made.shape[1] == length, made.shape

    return {"one group": lambda: generate(1), "three groups": lambda: generate(3)}


def measure(ours, open_clip, batch, options):
    """A row of the table: seconds of both for one batch, and their ratios."""
    size, length = ours.config.image.size, options.length
    pixels = np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)

    def caption():
        return ours.caption(pixels, "beam", beams=BEAMS, length=length, min_length=length - 1)

    functions = {"ours": caption}
    if open_clip:
        functions |= peers(*open_clip, pixels, length)
    seconds = median_seconds(functions, options.repeats)
    row = {"batch": batch, **seconds, "image": _image_seconds(ours, pixels)}
    return row | {f"ratio, {name}": seconds[name] / seconds["ours"] for name in list(functions)[1:]}


def _image_seconds(ours, pixels):
    return median_seconds({"": lambda: ours.encode_image(pixels)}, 5)[""]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of OpenCLIP")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--length", type=int, default=30, help="tokens")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    open_clip = open_clip_model(options)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ours = convert(open_clip[0], folder) if open_clip else our_model(folder)
    bandwidth, flops = rates(options.smoke)
    weights, steps = decoder_weights(ours), options.length - 1
    print(f"{BEAMS} beams, {steps + 1} tokens on {jax.devices()[0].device_kind}, ", end="")
    print(f"median of {options.repeats} turns")
    print(f"memory {bandwidth / 1e9:.1f} GB/s, matmuls {flops / 1e9:.0f} GFLOP/s, ", end="")
    print(f"{weights * 4 / 1e6:.0f} MB of weights a step")
    rows = []
    for batch in options.batches:
        row = measure(ours, open_clip, batch, options)
        step = (row["ours"] - row["image"]) / steps
        row["of bandwidth"] = weights * 4 / bandwidth / step
        row["of matmuls"] = 2 * weights * BEAMS * batch / flops / step
        rows.append(row)
        print(f"batch {batch}: " + ", ".join(f"{k} {v:.3g}" for k, v in list(row.items())[1:]))
    if options.json:
        figures = {"bandwidth": bandwidth, "flops": flops, "weights": weights, "rows": rows}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
