"""Training with packed texts against each text in a row of its own: steps in turns, and losses.

    python benchmarks/packing.py --config shapes --texts-per-row 4 --row-length 52

Both start from the same parameters and see the same pairs. Time is a median of steps; FLOPs are
those of the matmuls in the traced step.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import jax
from ml_collections import ConfigDict
from train_overhead import smoke_config

from coca_jax.config import load_config
from coca_jax.planning.flops import hardware_flops
from coca_jax.train.experiment import build

METRICS = ("loss", "contrastive_loss", "captioning_loss")


class Training:
    """A compiled step with its state and its batches."""

    def __init__(self, config, workdir):
        experiment = build(config, workdir)
        program = experiment.program
        self.state = program.factory.create(config.seed)
        self.batches = map(program.partitioner.put_batch, experiment.stream.batches())
        self.batch = next(self.batches)
        self.flops = hardware_flops(program.trace(self.state, self.batch).jaxpr)
        self.compiled = program.compile(self.state, self.batch)

    def step(self):
        """Seconds of a step, and its metrics."""
        begin = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self.batch)
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - begin
        self.batch = next(self.batches)
        return seconds, metrics


def main(apart, texts_per_row: int, row_length: int, steps: int, warm_up: int):
    """Medians of seconds, FLOPs, the largest difference of a loss, and cut texts."""
    packed = ConfigDict(apart.to_dict())
    packed.data.packing.update({"texts_per_row": texts_per_row, "row_length": row_length})
    trainings = [Training(c, f"no_run_{i}") for i, c in enumerate((apart, packed))]
    seconds, cut, difference = ([], []), 0, 0.0
    for number in range(warm_up + steps):
        measured = [training.step() for training in trainings]
        cut += int(measured[1][1]["cut_text"])
        if number < 10:  # later, rounding has grown with the steps
            a, b = (metrics for _, metrics in measured)
            difference = max(difference, *(abs(float(a[m] - b[m]) / float(a[m])) for m in METRICS))
        if number >= warm_up:
            for times, (taken, _) in zip(seconds, measured, strict=True):
                times.append(taken)
    own, shared = map(statistics.median, seconds)
    return {
        "seconds_apart": own,
        "seconds_packed": shared,
        "speedup": own / shared,
        "flops_apart": trainings[0].flops,
        "flops_packed": trainings[1].flops,
        "relative_difference_of_losses": difference,
        "cut_texts": cut,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="shapes")
    parser.add_argument("--texts-per-row", type=int, default=4)
    parser.add_argument("--row-length", type=int, default=52)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    options = parser.parse_args()
    sizes = options.texts_per_row, options.row_length
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            config = smoke_config(folder)
            config.train.batch_size = 32
            figures = main(config, 4, 40, steps=2, warm_up=1)
        else:
            figures = main(load_config(options.config), *sizes, options.steps, warm_up=5)
    for name, value in figures.items():
        print(f"{name:<32}{value:>16,.6g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
