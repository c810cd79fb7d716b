"""Where the metrics of a run go: `metrics.jsonl`, TensorBoard, Weights & Biases, MLflow.

`config.metrics.writers` names them. A configuration file adds one of its own:

    @writers.register("print")
    class PrintWriter:
        def __init__(self, workdir, resume_step): ...
        def write(self, step, values): ...
        def close(self): ...
"""

from coca_jax.observe.writers.jsonl import JsonlWriter, read_metrics
from coca_jax.observe.writers.metric_writer import MetricWriter
from coca_jax.observe.writers.registry import SampleWriter, Writer, writers
from coca_jax.observe.writers.samples import Sample

__all__ = [
    "JsonlWriter",
    "MetricWriter",
    "Sample",
    "SampleWriter",
    "Writer",
    "read_metrics",
    "writers",
]
