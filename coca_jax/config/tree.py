"""The configuration's tree: what `get_config()` edits, and the typed sections made of it."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from coca_jax.config.schema import Config, SweepConfig
from coca_jax.data.options import MixtureConfig
from coca_jax.errors import UserError
from coca_jax.evaluate.registry import evaluations
from coca_jax.fields import (
    Field,
    Sections,
    fields_of,
    is_section,
    is_sequence,
    members,
    registered,
    value_errors,
    values_of,
)
from coca_jax.trees import flatten, items

_TRAINED_WITH = ("dropout", "stochastic_depth", "image.patch_dropout", "dtype")
_OF_A_SOURCE = re.compile(r"^data\.sources\.[^.]+\.")


def default_config() -> ConfigDict:
    """The whole tree with its defaults. `configs/*.py` start from it; keys it lacks are errors."""
    return ConfigDict(values_of(Config()))


def finish(
    config: ConfigDict, argument: str | None, smoke: dict, others: Collection[str] = ()
) -> ConfigDict:
    """Applies a configuration file's argument: none, or `smoke` for a run of seconds.

    Args:
      config: the experiment.
      argument: what stood behind the file's name and a colon.
      smoke: dotted keys and their values at that size.
      others: further arguments, which the file has applied itself.

    Raises:
      UserError: another argument.
    """
    if argument not in (None, "", "smoke", *others):
        names = ", ".join(map(repr, (*others, "smoke")))
        there = f"there {'are' if others else 'is'} {names}"
        raise UserError(f"configuration argument {argument!r} is not known; {there}")
    if argument == "smoke":
        config.update_from_flattened_dict(smoke)
    return config


def build(config: ConfigDict) -> Config:
    """The typed tree of a valid configuration: frozen sections, tuples in place of lists.

    A data set of `data.sources` has all keys of `data.train`, changed by its own; an evaluation is
    an object of its class.
    """
    values = config.to_dict()
    built = _build(Config(), values)
    source = MixtureConfig(**members(built.data.train))
    sources = {name: _build(source, part) for name, part in values["data"]["sources"].items()}
    return dataclasses.replace(
        built,
        data=dataclasses.replace(built.data, sources=Sections(sources)),
        eval=Sections({name: _evaluation(options) for name, options in values["eval"].items()}),
    )


def _evaluation(values: Any) -> Any:
    """The evaluation with these options; plain, if this process does not know or allow them."""
    options = items(values)
    kind = options.pop("kind", None)
    if kind not in evaluations or value_errors(options, fields_of(evaluations[kind]), ""):
        return _frozen(values)
    return _build(evaluations[kind](), options)


def _build(section: Any, values: Mapping[str, Any]) -> Any:
    """The section with these values; of `Sections`, those without a schema stay plain."""
    known, changes = members(section), {}
    fields = {} if isinstance(section, Sections) else fields_of(type(section))
    for name, value in values.items():
        if is_section(known.get(name)):
            changes[name] = _build(known[name], value)
        else:
            changes[name] = fields[name].kind.typed(value) if name in fields else _frozen(value)
    if isinstance(section, Sections):
        return Sections({**section, **changes})
    return dataclasses.replace(section, **changes)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Sections({name: _frozen(part) for name, part in value.items()})
    return tuple(map(_frozen, value)) if is_sequence(value) else value


def keys() -> dict[str, Field]:
    """Every dotted key there is, but for those in `eval` and `data.sources`."""
    return _keys(Config(), "")


def _keys(section: Any, prefix: str) -> dict[str, Field]:
    flat, fields = {}, {} if isinstance(section, Sections) else fields_of(type(section))
    for name, value in members(section).items():
        if is_section(value):
            flat |= _keys(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = fields[name]._replace(default=value)
    return flat


def field_of(key: str, evaluation: Any = None) -> Field | None:
    """The field of a dotted key, in an experiment or in a sweep; None: there is none.

    Args:
      key: with dots.
      evaluation: the `kind` of the evaluation that it is an option of, if it is one.
    """
    section, _, name = key.rpartition(".")
    optional = optional_fields(section, evaluation)
    return optional.get(name) or _field(_of_a_stage(key)) or fields_of(SweepConfig).get(key)


def _field(key: str) -> Field | None:
    *parents, name = key.split(".")
    section: Any = Config()
    for parent in parents:
        section = members(section).get(parent)
        if not is_section(section):
            return None
    return None if isinstance(section, Sections) else fields_of(type(section)).get(name)


def optional_fields(section: str, evaluation: Any = None) -> dict[str, Field]:
    """Keys that a section may lack: those of an evaluation, or of a data set of a mixture."""
    match _of_a_stage(section).split("."):
        case ["eval", _]:
            kind = Field(None, "The evaluation's class.", registered(evaluations), True)
            options = fields_of(evaluations[evaluation]) if evaluation in evaluations else {}
            return {"kind": kind} | options
        case ["data", "sources", _]:
            return fields_of(MixtureConfig)
    return {}


def _of_a_stage(key: str) -> str:
    """The key without the stage of a sweep that it is of."""
    return key.split(".", 2)[-1] if key.startswith("stages.") else key


def resumable_keys() -> tuple[str, ...]:
    """Keys and sections that may change between attempts of one run.

    They say where and how fast it computes, not what.
    """
    return ("eval", *(key for key, field in keys().items() if field.resumable))


def function_free_keys() -> tuple[str, ...]:
    """Keys and sections that do not change which function a model's parameters stand for.

    They are those that may change between attempts of one run, and the keys of `model` that say
    what is dropped in training and how exactly it computes.
    """
    return (*resumable_keys(), *(f"model.{key}" for key in _TRAINED_WITH))


def to_json(config: ConfigDict) -> dict:
    """The tree as JSON has it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def differences(stored: dict, wanted: dict, free: Sequence[str]) -> list[str]:
    """Keys in which two trees differ, in words.

    Args:
      stored: one of them.
      wanted: the other.
      free: keys and sections that are not compared; one of `data.train` is free in the data sets
        of `data.sources`, too.
    """
    old, new = flatten(stored), flatten(wanted)
    missing = "(absent)"
    return [
        f"config.{key}: {old.get(key, missing)!r} there, {new.get(key, missing)!r} now"
        for key in sorted(old | new)
        if old.get(key, missing) != new.get(key, missing) and not _is_in(key, free)
    ]


def _is_in(key: str, names: Sequence[str]) -> bool:
    key = _OF_A_SOURCE.sub("data.train.", key)
    return any(key == name or key.startswith(f"{name}.") for name in names)
