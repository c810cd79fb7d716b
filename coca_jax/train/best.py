"""Makes sure that evaluations give the metric by which a run keeps its best checkpoint."""

from collections.abc import Container, Mapping
from typing import Any

from coca_jax.errors import UserError


def require_evaluation(config: Any, runnable: Container[str]) -> None:
    """Makes sure that the model can do the evaluation of `checkpoint.keep_best`.

    Args:
      config: the whole configuration.
      runnable: names of the evaluations that the model can do.

    Raises:
      UserError: it cannot.
    """
    metric = config.checkpoint.keep_best
    name = metric.partition("/")[0]
    if metric and name not in runnable:
        raise UserError(
            f"config.checkpoint.keep_best={metric}: the model is not trained for config.eval.{name}"
        )


def require_metric(config: Any, results: Mapping[str, Mapping[str, float]]) -> None:
    """Makes sure that the evaluation of `checkpoint.keep_best` has its metric.

    Args:
      config: the whole configuration.
      results: evaluation -> metric -> value, undefined or not.

    Raises:
      UserError: the evaluation has results, and the metric is none of them.
    """
    key = config.checkpoint.keep_best
    evaluation, _, metric = key.partition("/")
    if key and metric not in (names := results.get(evaluation, {metric: 0.0})):
        raise UserError(
            f"config.checkpoint.keep_best={key}: the metrics of {evaluation} are "
            f"{', '.join(names)}; the step is saved: set the key to one of them, and go on"
        )
