"""The metrics writers by name, and the interface that each has."""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from coca_jax.observe.writers.samples import Sample
from coca_jax.registry import Registry

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}  # writer and extra -> the package of it


@runtime_checkable
class Writer(Protocol):
    """A place for metrics.

    It is made of the run's folder and the step that the run goes on from: metrics of later steps,
    by an earlier attempt, are to be dropped. None keeps everything. `config.json` is in the folder
    already.

    A class with an attribute `options`, a frozen dataclass whose fields are made by
    `coca_jax.fields.field`, has them as the section `config.metrics.options.<name>`, and is given
    one of it as third argument. One with a true attribute `takes_backlog` first gets all that
    metrics.jsonl holds up to the step that a run goes on from, and leaves out what it has.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None): ...

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars under their names, such as train/loss; some may not be finite."""

    def close(self) -> None:
        """Sends what is not written yet, and closes the files."""


@runtime_checkable
class SampleWriter(Writer, Protocol):
    """A writer that shows images, too."""

    def write_samples(self, step: int, samples: Mapping[str, Sequence[Sample]]) -> None:
        """Writes what an evaluation drew, under names such as eval/captioning/captions."""


writers: Registry[type[Writer]] = Registry(
    "metrics writer",
    {
        "jsonl": "coca_jax.observe.writers.jsonl:JsonlWriter",
        "tensorboard": "coca_jax.observe.writers.tensorboard:TensorBoardWriter",
        "wandb": "coca_jax.observe.writers.wandb:WandbWriter",
        "mlflow": "coca_jax.observe.writers.mlflow:MlflowWriter",
    },
)


def default_writers() -> tuple[str, ...]:
    """The writers that are on by default: those that need no extra, and all of the user's own."""
    return tuple(name for name in writers if name not in PACKAGES)


def options_of(name: str) -> Any:
    """The defaults of a writer's options; None: it has none."""
    options = getattr(writers[name], "options", None)
    return options() if isinstance(options, type) else None


def missing_packages(names: Sequence[str]) -> Iterator[str]:
    """Messages about writers whose package is not installed."""
    for name in names:
        package = PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            yield (
                f"config.metrics.writers: {name} needs the package {package}, which is not "
                f'installed: pip install "coca_jax[{name}]"'
            )
