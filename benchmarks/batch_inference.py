"""Captioning and embedding a data set, compared with the model alone on decoded images.

    python benchmarks/batch_inference.py --model runs/shapes --json batch.json

The data set is a tar of images that this script draws, PNGs of `--size` pixels.
"bare" calls the model on the same images, decoded and resized before, in batches of the same size;
"decode" reads and decodes them without a model. They take turns with `coca caption --data` and
`coca embed` in this process, all compiled before; figures are medians. Memory is the peak of a
process that embeds a data set of one size, and then of a hundred times as many images. Without
--model, the model of configs/shapes.py with random parameters is used.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO

import cv2
import flax.linen as nn
import jax
import numpy as np

import coca_jax
from coca_jax.batch_inference import CaptionTask, EmbedTask, Output, data_options, run, split
from coca_jax.config import load_config, model_config
from coca_jax.data.sources import open_source
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.transforms.images import Resizing, decode, resize_for_evaluation
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.inference import LoadedModel
from coca_jax.models import init_params, make_model

BATCH = 64
SMOKE = {"images": 96, "size": 32, "repeats": 1, "fewest": 32}
ROOT = pathlib.Path(__file__).parent.parent


def write_tar(path, count, size):
    """Writes a WebDataset tar with images of a rectangle on a background."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            image = np.full((size, size, 3), rng.integers(256, size=3), np.uint8)
            low, high = np.sort(rng.integers(size, size=(2, 2)), axis=0)
            image[low[0] : high[0], low[1] : high[1]] = rng.integers(256, size=3)
            for ending, body in (("png", cv2.imencode(".png", image)[1].tobytes()), ("txt", b"a")):
                info = tarfile.TarInfo(f"{i:09}.{ending}")
                info.size = len(body)
                tar.addfile(info, BytesIO(body))


def load(path):
    """The model at a path, or one with random parameters."""
    if path:
        return coca_jax.load(path)
    config = load_config(f"{ROOT}/configs/shapes.py", ["--config.data.tokenizer.kind=byte"])
    model = make_model(model_config(config))
    params = nn.meta.unbox(jax.jit(lambda: init_params(model, jax.random.key(0)))())
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()))
    return LoadedModel(model, params, make_tokenizer("byte", ""), partitioner)


def computed(task, model, tar, threads):
    """Computes the results of a tar as the commands do; returns images a second."""
    source = open_source(data_options(str(tar)))
    with tempfile.TemporaryDirectory() as folder:
        output = Output(folder, "parquet", {})
        output.open()
        begin = time.perf_counter()
        image = model.config.image
        options = {"batch_size": BATCH, "threads": threads, "resizing": Resizing.of(image)}
        run(source, split(source, 10_000), task, output, image.pixels, **options)
        return len(source) / (time.perf_counter() - begin)


def bare(function, pixels):
    """Calls a method of the model on decoded images; returns images a second."""
    begin = time.perf_counter()
    for start in range(0, len(pixels), BATCH):
        function(pixels[start : start + BATCH])
    return len(pixels) / (time.perf_counter() - begin)


def decoded(model, tar):
    """All images of a tar as the model takes them, and the seconds that this took."""
    source, image = open_source(data_options(str(tar))), model.config.image
    resizing, begin = Resizing.of(image), time.perf_counter()
    rows = [
        resize_for_evaluation(decode(source[i]["image"]), image.pixels, resizing)
        for i in range(len(source))
    ]
    return np.stack(rows), time.perf_counter() - begin


def compare(model, tar, options):
    """Figures of both tasks, by name."""
    pixels, seconds = decoded(model, tar)
    print(f"decoding in one thread: {len(pixels) / seconds:,.0f} images/s", file=sys.stderr)
    tasks = {
        "caption": (CaptionTask(model), model.caption),
        "embed": (EmbedTask(model), model.encode_image),
    }
    figures = {"decode_images_per_second": len(pixels) / seconds}
    for name, (task, function) in tasks.items():
        bare(function, pixels)  # compiles
        computed(task, model, tar, options.threads)
        pairs = [
            (bare(function, pixels), computed(task, model, tar, options.threads))
            for _ in range(options.repeats)
        ]
        alone, whole = (statistics.median(values) for values in zip(*pairs, strict=True))
        slower = min(alone, figures["decode_images_per_second"])
        figures[name] = {
            "bare_images_per_second": alone,
            "images_per_second": whole,
            "ratio_to_bare": whole / alone,
            "ratio_to_slower": whole / slower,
        }
    return figures


def peak_bytes(tar, options):
    """The peak memory of a process that embeds a tar."""
    words = ["--measure", str(tar), "--threads", str(options.threads)]
    words += ["--model", options.model] if options.model else []
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def report(figures):
    """Prints the figures as a table."""
    print(f"{'':8} {'bare':>9} {'data set':>9} {'ratio':>6} {'of the slower':>14}   (images/s)")
    for name in ("caption", "embed"):
        row = figures[name]
        print(
            f"{name:8} {row['bare_images_per_second']:9,.0f} {row['images_per_second']:9,.0f} "
            f"{row['ratio_to_bare']:6.2f} {row['ratio_to_slower']:14.2f}"
        )
    for count, peak in figures["peak_bytes"].items():
        print(f"peak memory, {int(count):,} images: {peak / 2**20:,.0f} MiB")


def main():
    """Runs the comparisons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="", help="folder of a model")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fewest", type=int, default=1000, help="images; memory: also 100 times")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        model = load(options.model)
        computed(EmbedTask(model), model, options.measure, options.threads)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    if options.smoke:
        vars(options).update(SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        tar = pathlib.Path(folder, "images.tar")
        write_tar(tar, options.images, options.size)
        figures = compare(load(options.model), tar, options)
        figures["peak_bytes"] = {}
        for count in (options.fewest, (2 if options.smoke else 100) * options.fewest):
            write_tar(tar := pathlib.Path(folder, f"{count}.tar"), count, options.size)
            figures["peak_bytes"][count] = peak_bytes(tar, options)
    report(figures)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
