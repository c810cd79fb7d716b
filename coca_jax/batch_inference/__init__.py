"""Captions, embeds or scores whole data sets: a file of results for each shard, resumable."""

from coca_jax.batch_inference.data import data_options, split
from coca_jax.batch_inference.output import Output
from coca_jax.batch_inference.pipeline import run
from coca_jax.batch_inference.tasks import CaptionTask, EmbedTask, ScoreTask, Task

__all__ = [
    "CaptionTask",
    "EmbedTask",
    "Output",
    "ScoreTask",
    "Task",
    "data_options",
    "run",
    "split",
]
