"""Time that `coca train` adds to the bare compiled step: data, metrics, progress, the loop itself.

    coca data prepare shapes
    python benchmarks/train_overhead.py --json overhead.json

Runs the whole trainer on `configs/shapes.py` (no evaluation) in rounds, each followed by a bare
loop of the same compiled step over one batch that stays on the device. The ratio is that of the
median seconds a step.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax

from coca_jax.config import load_config
from coca_jax.observe.writers import read_metrics
from coca_jax.train.experiment import build
from coca_jax.train.loop import run
from coca_jax.train.program import TrainProgram


def main():
    """Measures a few rounds of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    config = load_config("configs/shapes.py")
    config.update_from_flattened_dict(
        {
            "train.steps": options.steps,
            "optimizer.warmup_steps": 1,
            "eval": {},
            "checkpoint.every": 10**9,
        }
    )
    compiled = {}
    compile_step = TrainProgram.compile

    def keep(*arguments):
        compiled.setdefault("step", compile_step(*arguments))
        return compiled["step"]

    trainer_seconds, bare_seconds = [], []
    with mock.patch.object(TrainProgram, "compile", keep):
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as workdir:
                experiment = build(config, workdir)
                run(experiment)
                rows = [r["train/step_seconds"] for r in read_metrics(workdir)]
                trainer_seconds += rows[1:-1]  # not the first window, nor the one that saves
            program = experiment.program
            with contextlib.closing(experiment.stream.batches(0)) as batches:
                batch = program.partitioner.put_batch(next(batches))
            state = program.factory.create(0)
            for _ in range(options.steps // config.train.log_every):
                begin = time.perf_counter()
                for _ in range(config.train.log_every):
                    state, metrics = compiled["step"](state, batch)
                jax.block_until_ready(metrics)
                bare_seconds.append((time.perf_counter() - begin) / config.train.log_every)
    result = {
        "trainer": statistics.median(trainer_seconds),
        "bare": statistics.median(bare_seconds),
    }
    result["ratio"] = result["trainer"] / result["bare"]
    print(
        f"coca train {result['trainer'] * 1e3:.1f} ms a step, bare step "
        f"{result['bare'] * 1e3:.1f} ms, ratio {result['ratio']:.3f}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
