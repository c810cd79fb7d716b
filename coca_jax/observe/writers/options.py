"""The section `metrics` of the configuration."""

import dataclasses
from typing import Any

from coca_jax.fields import Sections, field, registered, several
from coca_jax.observe.writers.registry import default_writers, options_of, writers


@dataclasses.dataclass(frozen=True)
class MetricsConfig:
    """Where metrics go, and samples with images; see docs/tracking.md.

    All but `jsonl` write in the background: one that fails is reported, and the run goes on.
    """

    writers: tuple[str, ...] = field(
        ("jsonl", "tensorboard"),
        "What writes them: metrics.jsonl, TensorBoard's files, Weights & Biases (extra `wandb`), "
        "MLflow (extra `mlflow`), and any of your own, which are on where they are registered.",
        several(registered(writers), distinct=True),
        resumable=True,
    )
    options: Sections = Sections()


def metrics_section() -> MetricsConfig:
    """The section with its defaults, and the options of each registered writer that has any."""
    options: dict[str, Any] = {name: options_of(name) for name in writers}
    sections = {name: value for name, value in options.items() if value is not None}
    return MetricsConfig(default_writers(), Sections(sections))
