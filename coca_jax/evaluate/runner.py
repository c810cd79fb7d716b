"""Runs the evaluations that a configuration names: one model, several tasks and data sets."""

import pathlib
import sys
import tempfile
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from coca_jax.data.sources import warn_of_lost
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation
from coca_jax.evaluate.data import EvaluationData, Stopped, examples_of, open_examples
from coca_jax.evaluate.parsing import parse_evals
from coca_jax.inference import LoadedModel
from coca_jax.models import CoCaConfig


class EvalResults(NamedTuple):
    """The results of several evaluations, by name."""

    metrics: dict[str, dict[str, float]]
    artifacts: dict[str, dict[str, Any]]
    failures: dict[str, UserError]  # of the evaluations that have no results

    def raise_failures(self) -> None:
        """Raises a UserError that says which evaluations failed, and why, if any did."""
        if self.failures:
            lines = [f"eval.{name}: {error}" for name, error in self.failures.items()]
            raise UserError("\n".join(lines)) from next(iter(self.failures.values()))


def runnable_evals(config: ConfigDict, model: CoCaConfig) -> ConfigDict:
    """Returns the evaluations of `config.eval` that need no part the model was not trained with.

    Raises:
      UserError: one of them needs a head, and the model has none or another; or images of one
        size, and the model takes images as they are; or does not go with the configuration.
    """
    absent = {"contrastive": not model.has_cls, "captioning": not model.captioning}
    absent["matching"] = not model.matching_block
    parsed = parse_evals(config.eval)
    for name, evaluation in parsed.items():
        for message in evaluation.conflicts(config):
            raise UserError(f"config.eval.{name}.{message}")
        if "classification" in evaluation.required_losses:
            _require_head(name, evaluation, config, model)
        if model.image.sequence_lengths:
            _require_any_size(name, evaluation, config, model)
    return ConfigDict(
        {
            name: section
            for name, section in config.eval.items()
            if not any(absent.get(loss) for loss in parsed[name].required_losses)
        }
    )


def require_runnable(config: ConfigDict, model: CoCaConfig) -> None:
    """Makes sure that there is an evaluation which the model can do.

    Raises:
      UserError: there is none; says what each of them needs.
    """
    if not runnable_evals(config, model):
        lines = [
            f"config.eval.{name} needs a model that was trained with the "
            f"{' and '.join(e.required_losses)} loss{'es' * (len(e.required_losses) > 1)}"
            for name, e in parse_evals(config.eval).items()
        ]
        raise UserError("\n".join(lines))


def missing_evals(config: ConfigDict, model: CoCaConfig, done: Container[str]) -> ConfigDict:
    """Returns the evaluations that are runnable and not done yet.

    Args:
      config: the whole configuration.
      model: the model's.
      done: names of the evaluations that have results of their options.
    """
    runnable = runnable_evals(config, model)
    return ConfigDict({name: e for name, e in runnable.items() if name not in done})


def _require_head(name: str, evaluation: Evaluation, config: ConfigDict, model: CoCaConfig) -> None:
    """Raises a UserError unless the model has the head that the evaluation needs."""
    classes, head = len(config.head.classes), model.head
    num_images, reads_text = examples_of(evaluation, config)[0].num_images, evaluation.reads_text
    if head is None:
        wrong = "needs a head, and the model has none: config.loss.classification.weight trains one"
    elif classes != head.classes:
        wrong = f"config.head.classes are {classes}, and the model's head has {head.classes}"
    elif num_images != head.num_images:
        wrong = (
            f"has {num_images} images of an example, and the model's head reads {head.num_images}"
        )
    elif reads_text and head.input == "image":
        wrong = "asks questions, and the model's head reads images alone (config.head.input)"
    elif not reads_text and head.input == "text":
        wrong = "needs `questions`, the fields with the texts that the model's head reads"
    else:
        return
    raise UserError(f"config.eval.{name}: {wrong}")


def _require_any_size(
    name: str, evaluation: Evaluation, config: ConfigDict, model: CoCaConfig
) -> None:
    """Raises a UserError if the evaluation needs images of one size."""
    num_images = max(examples.num_images for examples in examples_of(evaluation, config))
    if num_images > 1:
        wrong = f"has {num_images} images of an example"
    elif evaluation.one_size:
        wrong = "reads as many tokens of every image"
    else:
        return
    lengths = [*model.image.sequence_lengths]
    raise UserError(
        f"config.eval.{name}: {wrong}, and with model.image.sequence_lengths={lengths} images "
        "differ in size"
    )


def check_eval_data(config: ConfigDict) -> None:
    """Opens the data of every evaluation, so that an error does not wait for its turn.

    Losses of data are reported on standard error, once for all processes.

    Raises:
      UserError: names each evaluation whose data set or split cannot be opened, and why.
    """
    errors = []
    for name, evaluation in parse_evals(config.eval).items():
        try:
            for examples in examples_of(evaluation, config):
                source = open_examples(examples, config)
                if jax.process_index() == 0:
                    warn_of_lost(f"config.eval.{name}", source)
        except UserError as error:
            errors.append(f"config.eval.{name}: {error}")
    if errors:
        raise UserError("\n".join(errors))


def evaluate(
    model: LoadedModel,
    config: ConfigDict,
    evaluations: ConfigDict | None = None,
    should_stop: Callable[[], bool] = bool,
) -> EvalResults:
    """Runs everything in `config.eval` that the model has the parts for.

    An evaluation whose data lack what it needs leaves the results of the rest as they are.

    Args:
      model: the one that is evaluated.
      config: the whole configuration.
      evaluations: a part of `runnable_evals(config, model)`; None: all of it.
      should_stop: asked before each evaluation and each of its batches, by all processes: whether
        to leave out what has no results yet.

    Returns:
      The results; call `raise_failures` when they are written.

    Raises:
      UserError: an evaluation needs a head, and the model has none or another.
    """
    if evaluations is None:
        evaluations = runnable_evals(config, model.config)
        for name in (name for name in config.eval if name not in evaluations):
            print(f"eval.{name} is left out: the model was not trained for it", file=sys.stderr)
    if model.classes and config.head.classes and model.classes != tuple(config.head.classes):
        raise UserError(
            "config.head.classes are not those that the model's head was trained with: "
            f"{', '.join(model.classes[:5])}, ..."
        )
    with tempfile.TemporaryDirectory() as folder:
        computed: dict[tuple, Any] = {}

        def data_of(evaluation: Evaluation) -> EvaluationData:
            examples = examples_of(evaluation, config)[0]
            return EvaluationData(
                model, config, examples, pathlib.Path(folder), computed, should_stop
            )

        return run_evaluations(model, parse_evals(evaluations), data_of, should_stop)


def run_evaluations(
    model: Any,
    evaluations: Mapping[str, Evaluation],
    data_of: Callable[[Evaluation], EvaluationData],
    should_stop: Callable[[], bool] = bool,
) -> EvalResults:
    """Runs each evaluation on its data, until it should stop; a failed one stops no other."""
    results = EvalResults({}, {}, {})
    for name, evaluation in evaluations.items():
        if should_stop():
            break
        try:
            metrics, artifacts = evaluation.run(model, data_of(evaluation))
        except Stopped:
            break
        except UserError as error:
            results.failures[name] = error
        else:
            results.metrics[name], results.artifacts[name] = metrics, artifacts
    return results
