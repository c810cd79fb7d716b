"""Evaluations as `config.eval` names them: what is wrong with them, and the objects they become."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.kinds import NAME
from coca_jax.data.sources import missing_option
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation
from coca_jax.evaluate.registry import evaluations as registry
from coca_jax.fields import fields_of, is_sequence, shown, value_errors
from coca_jax.trees import items


def parse_evals(section: Mapping[str, Any] | ConfigDict) -> dict[str, Evaluation]:
    """Returns the evaluations of `config.eval`.

    Args:
      section: name -> the evaluation's kind, data set and options.

    Raises:
      UserError: something is wrong with one of them (see `eval_errors`).
    """
    if all(isinstance(options, Evaluation) for options in items(section).values()):
        return dict(items(section))  # of a typed configuration
    if errors := eval_errors(section):
        raise UserError("\n".join(errors))
    return {name: _make(items(options)) for name, options in items(section).items()}


def eval_errors(section: Any) -> list[str]:
    """Returns a message for each thing wrong with `config.eval`; none if all is well.

    Args:
      section: what a user has written; nothing is raised.
    """
    errors = []
    for name, options in items(section).items():
        if not NAME.holds(name):
            errors.append(f"config.eval: {shown(name)} should be {NAME.wanted}")
        elif "/" in name:
            errors.append(f"config.eval: {shown(name)} should have no /, as metrics follow one")
        errors += _errors_of(f"config.eval.{name}", options)
    return errors


def _errors_of(key: str, options: Any) -> Iterator[str]:
    given = items(options)
    if not isinstance(options, (ConfigDict, Mapping)):
        yield f"{key}={shown(options)} should be a section with kind and data set"
        return
    kind = given.pop("kind", None)
    if kind not in registry:
        yield f"{key}.kind={shown(kind)} should be one of {', '.join(registry)}"
        return
    wrong = value_errors(given, fields_of(registry[kind]), f"{key}.")
    yield from wrong.values()
    evaluation = registry[kind](**_tuples({k: v for k, v in given.items() if k not in wrong}))
    for error in (*_data_errors(kind, evaluation), *evaluation.errors()):
        if re.split(r"\W", error, maxsplit=1)[0] not in wrong:
            yield f"{key}.{error}"


def _data_errors(kind: str, evaluation: Evaluation) -> Iterator[str]:
    """Messages about the options that say which examples there are."""
    if message := missing_option(evaluation):
        yield message
    if (evaluation.num_images or 1) > 1 and not evaluation.several_images:
        yield f"num_images={evaluation.num_images}: {kind} takes one image of an example"


def _make(options: dict[str, Any]) -> Evaluation:
    return registry[options.pop("kind")](**_tuples(options))


def _tuples(value: Any) -> Any:
    """The value with tuples for lists, which JSON has."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if is_sequence(value) else value
