"""How seconds and bytes grow with size: a table of exponents, in which a quadratic cannot hide.

    python benchmarks/scaling.py --json scaling.json
    python benchmarks/scaling.py --parts layers batch

Each part is measured at a few sizes, each twice the last. An exponent is the slope of the
least-squares line through the logarithms of figures and sizes: 0 stays the same, 1 is linear, 2
quadratic. What takes the same time at any size lowers it, so sizes should be as large as patience
allows (`--scale 4`). Ranking every image for every text is quadratic by nature; nothing else is.

Parts: the train step with its layers (their compilation, too) and its batch; checkpoints with
their bytes; the start-up of processes, which connect to each other; opening indices of tars with
their samples; an evaluation with its images.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import probe
import tar_index
from train_step import seconds_a_step

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config
from coca_jax.data.sources.webdataset import webdataset_source
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.evaluate.metrics.recall import recalls
from coca_jax.evaluate.runner import evaluate
from coca_jax.inference import LoadedModel
from coca_jax.models import PRESETS, CoCa, init_params, preset
from coca_jax.planning.aot import abstract_batch
from coca_jax.train.program import make_program
from coca_jax.validation import validate

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMOKE = {"points": 2, "scale": 0.01, "repeats": 1, "model": "tiny"}
START = """
from coca_jax.distributed import processes
processes.start(120, 60)
processes.assert_same_on_all("scaling", {"same": 1})
processes.shutdown(0)
"""
Row = dict[str, float]


def train_step(layers: int, batch: int, options: argparse.Namespace) -> Row:
    """Compiles and runs the step of a small model."""
    config = default_config()
    config.model.update(preset(options.model))
    config.model.scan_unroll = 1
    config.model.image.num_layers = layers
    config.model.text.update({"unimodal_layers": layers, "multimodal_layers": layers})
    config.train.batch_size = batch
    validate(config, 1)
    partitioner = Partitioner(make_mesh(config.mesh, jax.devices()[:1]), config.sharding.rules)
    program = make_program(config, partitioner)
    shapes = abstract_batch(config, program.model, partitioner)
    rng = np.random.default_rng(0)
    numbers = {k: rng.integers(1, 200, x.shape).astype(x.dtype) for k, x in shapes.items()}
    device_batch, state = partitioner.put_batch(numbers), program.factory.create(0)
    begin = time.perf_counter()
    step = program.compile(state, device_batch)
    compile_seconds = time.perf_counter() - begin

    def run():
        nonlocal state
        state, metrics = step(state, device_batch)
        return metrics

    return {
        "compile, s": compile_seconds,
        "step, s": seconds_a_step(run, jax.block_until_ready, options.repeats),
        "temporaries, bytes": step.memory_analysis().temp_size_in_bytes,
    }


def by_layers(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """Layers of each part of the model."""
    del folder
    return train_step(size, 8, options)


def by_batch(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """Pairs of a batch."""
    del folder
    row = train_step(2, size, options)
    return {name: value for name, value in row.items() if name != "compile, s"}


def by_bytes(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """MiB of a checkpoint, in arrays of 1 MiB."""
    arrays = {str(i): jnp.full(2**18, i, jnp.float32) for i in range(size)}
    items, save, restore = {"params": arrays}, [], []
    with CheckpointStore(folder / "checkpoints", keep=1) as store:
        for step in range(options.repeats):
            begin = time.perf_counter()
            store.save(step, items, {})
            store.wait()
            save.append(time.perf_counter() - begin)
    for _ in range(options.repeats):
        with CheckpointStore(folder / "checkpoints", keep=1) as store:
            begin = time.perf_counter()
            jax.block_until_ready(store.restore(options.repeats - 1, items))
            restore.append(time.perf_counter() - begin)
    return {"save, s": statistics.median(save), "restore, s": statistics.median(restore)}


def by_processes(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """Processes that start, connect, compare and end."""
    del folder
    return {"start, s": statistics.median(start(size) for _ in range(options.repeats))}


def start(count: int) -> float:
    """Seconds of processes on this machine, from their start to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    places = {"JAX_COORDINATOR_BIND_ADDRESS": address, "COCA_COORDINATOR": address}
    common = os.environ | places | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    common["COCA_PROCESSES"] = str(count)
    begin = time.perf_counter()
    children = [
        subprocess.Popen([sys.executable, "-c", START], env=common | {"COCA_PROCESS": str(i)})
        for i in range(count)
    ]
    if any([child.wait() for child in children]):
        raise SystemExit(f"{count} processes did not start")
    return time.perf_counter() - begin


def by_samples(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """Samples of tars that are indexed, and opened with warm indices."""
    tar_index.write(str(folder / "0.tar"), 100, 1000, 0.0)
    for i in range(1, -(-size // 100)):
        (folder / f"{i}.tar").symlink_to(folder / "0.tar")
    seconds = []
    for _ in range(options.repeats + 1):
        begin = time.perf_counter()
        assert len(webdataset_source(str(folder / "*.tar"))) >= size
        seconds.append(time.perf_counter() - begin)
    return {"index, s": seconds[0], "open, s": statistics.median(seconds[1:])}


def by_images(size: int, options: argparse.Namespace, folder: pathlib.Path) -> Row:
    """Images of a zero-shot evaluation; eight times as many embeddings are ranked."""
    probe.write_images(folder, size, np.random.default_rng(0))
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(tiny.text, vocab_size=320)  # of the tokenizer of bytes
    model = CoCa(dataclasses.replace(tiny, text=text))
    params = nn.meta.unbox(jax.jit(lambda key: init_params(model, key))(jax.random.key(0)))
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    loaded = LoadedModel(model, params, make_tokenizer("byte", ""), partitioner)
    config = default_config()
    config.eval = {"all": {"kind": "zero_shot", "format": "folder", "path": str(folder)}}
    vectors = np.random.default_rng(0).standard_normal((8 * size, 64), np.float32)
    pairs = np.repeat(np.arange(len(vectors))[:, None], 2, axis=1)
    return {
        "zero-shot, s": median_seconds(lambda: evaluate(loaded, config), options.repeats),
        "ranking, s": median_seconds(lambda: recalls(vectors, vectors, pairs), options.repeats),
    }


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a function, after one call that warms it up."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


PARTS = {  # with the first of their sizes, which are multiplied by `--scale`
    "layers": (by_layers, 4),
    "batch": (by_batch, 32),
    "MiB": (by_bytes, 64),
    "processes": (by_processes, 1),
    "samples": (by_samples, 20_000),
    "images": (by_images, 128),
}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms of values and sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(part: str, options: argparse.Namespace) -> Iterator[dict]:
    """Yields a row for each figure of a part: its values at all sizes, and the exponent."""
    function, first = PARTS[part]
    first = max(1, round(first * (1 if part == "processes" else options.scale)))
    sizes = [first * 2**i for i in range(options.points)]
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(function(size, options, pathlib.Path(folder)))
    for name in rows[0]:
        values = [row[name] for row in rows]
        yield {
            "part": part,
            "figure": name,
            "sizes": sizes,
            "values": values,
            "exponent": exponent(sizes, values),
        }


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="mini", help="the preset whose layers and batch grow")
    parser.add_argument("--points", type=int, default=4, help="number of sizes, at least 2")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    if options.points < 2:
        parser.error(f"--points {options.points} should be at least 2")
    rows = []
    print(f"{'grows with':<12}{'figure':<20}{'exponent':>9}  values at sizes")
    for part in options.parts:
        for row in measure(part, options):
            rows.append(row)
            pairs = zip(row["values"], row["sizes"], strict=True)
            values = ", ".join(f"{value:.3g} at {size:,}" for value, size in pairs)
            print(f"{part:<12}{row['figure']:<20}{row['exponent']:>9.2f}  {values}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
