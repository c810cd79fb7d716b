"""The cost of CoCa's two losses in one step, against one of them alone.

    python benchmarks/objectives.py --model mini --batch 16       # on a CPU
    python benchmarks/objectives.py --batch 256 --json base.json  # on an accelerator
    python benchmarks/objectives.py --unimodal-layers 6 --multimodal-layers 6  # the ablations' Base

The whole compiled step of each objective, optimizer included, on one device: data are random and
stay there; all programs are kept loaded and take turns, so that changes of the machine's speed
affect all of them. A step without the captioning loss has no multimodal layers; times are relative
to it. "contrastive, deep" replaces them by as many unimodal layers, so its decoder is as deep as
CoCa's. It is probably the baseline of the 1.18 in the ablations of arXiv 2205.01917, which keep 12
decoder layers in all (CoCa: 6 and 6). FLOPs are those that `coca params` counts.
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from coca_jax.accelerators import prepare_environment
from coca_jax.config import default_config
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.models import preset
from coca_jax.planning import training_flops
from coca_jax.planning.aot import abstract_batch
from coca_jax.train.program import compile_traced, make_program
from coca_jax.validation import validate

NO_CAPTIONS = {"loss.captioning.weight": 0.0}
OBJECTIVES = {
    "contrastive": NO_CAPTIONS,
    "contrastive, deep": NO_CAPTIONS,
    "sigmoid": NO_CAPTIONS | {"loss.contrastive.kind": "sigmoid"},
    "captioning": {"loss.contrastive.weight": 0.0},
    "coca": {},
}
FIRST = "contrastive"
SMOKE = {
    "model": "tiny",
    "objectives": ["contrastive", "coca"],
    "batch": 4,
    "steps": 1,
    "rounds": 1,
}


class Program:
    """The compiled step of an objective, with its state and a batch of random data."""

    def __init__(self, name: str, options: argparse.Namespace):
        """Traces it."""
        self.name, self.seconds = name, []
        self.config = config = make_config(name, options)
        self.partitioner = Partitioner(make_mesh(config.mesh, jax.devices()[:1]))
        self.program = make_program(config, self.partitioner)
        self.factory, self.model = self.program.factory, self.program.model
        shapes = abstract_batch(config, self.model, self.partitioner)
        self.traced = self.program.trace(self.factory.abstract, shapes)
        rng = np.random.default_rng(0)
        self.batch = self.partitioner.put_batch(
            {k: rng.integers(1, 200, x.shape).astype(x.dtype) for k, x in shapes.items()}
        )

    def compile(self) -> None:
        """Makes a state, and compiles it; another thread may do so for another program."""
        begin = time.perf_counter()
        self.state = self.factory.create(0)
        self.step = compile_traced(self.traced, self.partitioner, self.config.compiler_options)
        print(f"{self.name}: compiled in {time.perf_counter() - begin:.0f} s", flush=True)

    def run(self, steps: int) -> None:
        """Notes the seconds a step takes, of a few in a row."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready(metrics)
        self.seconds.append((time.perf_counter() - begin) / steps)

    def row(self) -> dict:
        """The measurements, without the first round, which is the warm-up."""
        memory = self.step.memory_analysis()
        return {
            "seconds": statistics.median(self.seconds[1:]),
            "rounds": self.seconds[1:],
            "flops_per_example": training_flops(self.model.config),
            "parameters": sum(x.size for x in jax.tree.leaves(self.factory.abstract.params)),
            "state_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }


def make_config(name: str, options: argparse.Namespace) -> ConfigDict:
    """The preset, trained by this objective."""
    config = default_config()
    config.model.update(preset(options.model))
    text = config.model.text
    text.unimodal_layers = options.unimodal_layers or text.unimodal_layers
    text.multimodal_layers = options.multimodal_layers or text.multimodal_layers
    if name.endswith("deep"):
        text.unimodal_layers += text.multimodal_layers
    config.model.update({"remat": options.remat, "attention": options.attention})
    config.train.batch_size = options.batch
    config.optimizer.name = options.optimizer
    config.update_from_flattened_dict(OBJECTIVES[name])
    validate(config, 1)
    return config


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Objective -> what was measured of it."""
    programs = [Program(name, options) for name in options.objectives]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(Program.compile, programs))  # XLA's compiler needs no lock of Python's
    for _ in range(options.rounds + 1):
        for program in programs:
            program.run(options.steps)
    return {program.name: program.row() for program in programs}


def table(rows: dict[str, dict]) -> str:
    """A line for each objective, with what it costs relative to the first."""
    first = rows.get(FIRST) or next(iter(rows.values()))
    head = ("objective", "ms a step", "relative", "FLOPs", "parameters", "state", "temporary")
    lines = [
        (
            name,
            f"{row['seconds'] * 1e3:.2f}",
            f"{row['seconds'] / first['seconds']:.3f}",
            f"{row['flops_per_example'] / first['flops_per_example']:.3f}",
            f"{row['parameters'] / 1e6:.1f}M",
            f"{row['state_bytes'] / 2**30:.2f} GiB",
            f"{row['temporary_bytes'] / 2**30:.2f} GiB",
        )
        for name, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])])
        for cells in (head, *lines)
    )


def main():
    """Measures all that is asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="base", help="a preset")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--unimodal-layers", type=int, help="default: the preset's")
    parser.add_argument("--multimodal-layers", type=int, help="default: the preset's")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--optimizer", default="adafactor")
    parser.add_argument("--steps", type=int, default=3, help="in a row")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    prepare_environment()
    rows = measure(options)
    print(table(rows))
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        device = jax.devices()[0].device_kind
        result = {"device": device, "settings": settings, "objectives": rows}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
