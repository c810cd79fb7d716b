"""Writes `docs/configuration.md` from the schema: `python -m coca_jax.config.document`."""

import inspect
import pathlib
from collections.abc import Iterator
from typing import Any

from coca_jax.config.schema import Config, SweepConfig
from coca_jax.data.options import MixtureConfig
from coca_jax.evaluate.registry import evaluations
from coca_jax.fields import Field, Sections, fields_of, is_section, members

PAGE = pathlib.Path(__file__).parents[2] / "docs/configuration.md"
INTRODUCTION = """# Configuration

Every key of a configuration, by section. A configuration file starts from `default_config()` and
changes some keys; on the command line a key is set as `--config.optimizer.learning_rate=3e-4`.
Unknown keys and values that are not allowed are errors, which are all reported at once.

A key with "yes" under "resume" may change when a run is resumed; with another value of any other
key the workdir is refused.

<!-- Written by `python -m coca_jax.config.document` from `coca_jax/config/schema.py`. -->
"""
SOURCES = """## data.sources

A mixture of data sets: name -> a section with the keys of `data.train` that differ from it, and a
weight. Without data sets here, `data.train` is the only one.
"""
EVALUATIONS = """## eval

Evaluations: name -> a section with `kind`, the data and the options of that kind. It may change
when a run is resumed: what is new, or has other options, is evaluated then.
"""
SWEEP = """## Sweeps

The configuration of `coca compare` has `stages`, experiments by name, and these keys.
"""


def document() -> str:
    """The page: a table a section."""
    parts = [INTRODUCTION, *_sections(Config(), "")]
    parts += [SWEEP, _table(fields_of(SweepConfig))]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _sections(section: Any, name: str) -> Iterator[str]:
    """The section's own keys, then each of its sections."""
    keys = members(section)
    if not isinstance(section, Sections):
        yield _heading(type(section), name)
        fields = fields_of(type(section))
        own = {key: fields[key]._replace(default=keys[key]) for key in keys if key in fields}
        if own:
            yield _table(own)
    for key, value in keys.items():
        inner = f"{name}.{key}" if name else key
        if inner == "data.sources":
            yield SOURCES
            yield _table({"weight": fields_of(MixtureConfig)["weight"]})
        elif inner == "eval":
            yield EVALUATIONS
            yield from _evaluations()
        elif is_section(value):
            yield from _sections(value, inner)


def _evaluations() -> Iterator[str]:
    """The options that all evaluations share, then each kind's own."""
    options = {
        kind: {name: field._replace(resumable=True) for name, field in fields.items()}
        for kind, fields in ((kind, fields_of(evaluations[kind])) for kind in evaluations)
    }
    shared = set.intersection(*map(set, options.values()))
    yield _table({name: field for name, field in options["zero_shot"].items() if name in shared})
    for kind, fields in options.items():
        yield _heading(evaluations[kind], f"eval: {kind}")
        if own := {name: field for name, field in fields.items() if name not in shared}:
            yield _table(own)


def _heading(section: type, name: str) -> str:
    return f"## {name or 'Top level'}\n\n{inspect.getdoc(section)}\n"


def _table(fields: dict[str, Field]) -> str:
    rows = [("key", "default", "allowed", "meaning", "resume"), ("---",) * 5]
    rows += [
        (
            f"`{name}`",
            f"`{_cell(repr(field.default))}`",
            _cell(field.kind.wanted),
            _cell(field.doc),
            "yes" if field.resumable else "",
        )
        for name, field in fields.items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(document())
    print(PAGE)
