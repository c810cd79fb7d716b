"""Time that `coca train` adds to the bare compiled step: data, metrics, progress, the loop itself.

    coca data prepare shapes
    python benchmarks/train_overhead.py --json overhead.json

Runs the whole trainer on `configs/shapes.py` (no evaluation) in rounds, each followed by a bare
loop of the same compiled step over one batch that stays on the device. The ratio is that of the
median seconds a step.
"""

import argparse
import contextlib
import io
import json
import pathlib
import statistics
import tarfile
import tempfile
import time
from unittest import mock

import cv2
import jax
import numpy as np

from coca_jax.config import load_config
from coca_jax.models import preset
from coca_jax.observe.writers import read_metrics
from coca_jax.train.experiment import build
from coca_jax.train.loop import run
from coca_jax.train.program import TrainProgram

CONFIG = str(pathlib.Path(__file__).resolve().parent.parent / "configs/shapes.py")


def main():
    """Measures a few rounds of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it runs")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(smoke_config(folder) if options.smoke else load_config(CONFIG), options)
    print(
        f"coca train {result['trainer'] * 1e3:.1f} ms a step, bare step "
        f"{result['bare'] * 1e3:.1f} ms, ratio {result['ratio']:.3f}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def smoke_config(folder):
    """The smallest model, trained on a few images and texts that are written to a folder."""
    image = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    parts = {"png": image, "txt": b"a text"}
    members = {f"{i}.{kind}": data for i in range(32) for kind, data in parts.items()}
    with tarfile.open(f"{folder}/0.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    config = load_config(f"{CONFIG}:smoke")
    config.model.update(preset("tiny"))
    config.model.text.vocab_size = 320
    config.data.tokenizer.kind = "byte"
    config.data.train.update({"format": "webdataset", "path": f"{folder}/0.tar"})
    return config


def measure(config, options):
    """Median seconds of a step of both."""
    steps = 5 * config.train.log_every if options.smoke else options.steps
    rounds = 1 if options.smoke else options.rounds
    config.update_from_flattened_dict(
        {
            "train.steps": steps,
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
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as workdir:
                experiment = build(config, workdir)
                run(experiment)
                rows = [r["train/step_seconds"] for r in read_metrics(workdir)]
                trainer_seconds += rows[1:-1]  # not the first window, nor the one that saves
            program = experiment.program
            with contextlib.closing(experiment.stream.batches(0)) as batches:
                batch = program.partitioner.put_batch(next(batches))
            state = program.factory.create(0)
            for _ in range(steps // config.train.log_every):
                begin = time.perf_counter()
                for _ in range(config.train.log_every):
                    state, metrics = compiled["step"](state, batch)
                jax.block_until_ready(metrics)
                bare_seconds.append((time.perf_counter() - begin) / config.train.log_every)
    trainer, bare = statistics.median(trainer_seconds), statistics.median(bare_seconds)
    return {"trainer": trainer, "bare": bare, "ratio": trainer / bare}


if __name__ == "__main__":
    main()
