"""A shrunk run of `configs/shapes.py`: its configuration, and the metrics that must not vary."""

import pathlib

from coca_jax.config import load_config
from coca_jax.observe.writers import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 6
SMALL = {
    "model.image.width": 32,
    "model.text.width": 32,
    "model.scan_unroll": 1,
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.log_every": 1,
    "checkpoint.every": 2,
    "model.dropout": 0.1,
    "optimizer.ema_decay": 0.9,
    "optimizer.schedule": "rsqrt",  # which does not depend on the length
    "mesh.data": 1,
}
EXACT = ("train/loss", "train/contrastive_loss", "train/captioning_loss", "train/grad_norm")


def make_config(prepared, evaluations=("zero_shot",), **changes):
    """The configuration with these of its evaluations."""
    config = load_config(f"{ROOT}/configs/shapes.py:smoke")
    config.eval = {name: config.eval[name] for name in evaluations}
    config.update_from_flattened_dict(SMALL | {"data.dir": prepared} | changes)
    return config


def losses(workdir):
    """Step -> metrics that must not depend on how often a run was interrupted."""
    records = [r for r in read_metrics(workdir) if "train/loss" in r]
    steps = [record["step"] for record in records]
    assert len(set(steps)) == len(steps)
    return {record["step"]: [record[name] for name in EXACT] for record in records}
