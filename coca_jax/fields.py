"""Fields of options and of the configuration: default, meaning, allowed values.

A section of the configuration, an evaluation and a loss are frozen dataclasses whose fields are
made by `field`. Validation, the command line and `docs/configuration.md` read what it keeps.
"""

import ast
import dataclasses
import difflib
import math
import re
import string
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from coca_jax.registry import Registry

INT32, UINT32 = 2**31 - 1, 2**32 - 1
FLOAT32 = 1e38  # float32 holds it
TINY = 1.18e-38  # float32 takes what is smaller for 0
LONGEST = 2**15  # characters of a text
NONE = type(None)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (tuple, list)) else value


@dataclasses.dataclass(frozen=True)
class Kind:
    """The values that a field allows."""

    description: str | Callable[[], str]  # "a whole number from 1 to 8", or what says it when asked
    types: tuple[type, ...]  # as which a text on the command line is read, in this order
    holds: Callable[[Any], bool]  # of any value at all; never raises
    registered: bool = False  # whether another process may have registered further names
    # An allowed value as a typed section has it: tuples for lists, floats where they are wanted.
    typed: Callable[[Any], Any] = _tuples

    @property
    def wanted(self) -> str:
        """The allowed values in words, for messages."""
        return self.description if isinstance(self.description, str) else self.description()


class Field(NamedTuple):
    """The arguments of `field` for one field."""

    default: Any
    doc: str
    kind: Kind
    resumable: bool


def field(default: Any, doc: str, kind: Kind, *, resumable: bool = False) -> Any:
    """A field of a frozen dataclass of options.

    Args:
      default: its value where none is given.
      doc: its meaning, for `docs/configuration.md`: one or more plain sentences.
      kind: the values that it allows.
      resumable: whether it may change when a run is resumed.
    """
    return dataclasses.field(
        default=default, metadata={"doc": doc, "kind": kind, "resumable": resumable}
    )


def fields_of(options: type) -> dict[str, Field]:
    """The fields of a dataclass of options that were made by `field`, by name."""
    return {
        f.name: Field(f.default, f.metadata["doc"], f.metadata["kind"], f.metadata["resumable"])
        for f in dataclasses.fields(options)
        if "kind" in f.metadata
    }


class Sections(Mapping):
    """Sections of the configuration by name; immutable, and read as attributes, too."""

    def __init__(self, sections: Mapping[str, Any] | None = None):
        """Takes the sections."""
        self.__dict__.update(sections or {})

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __setattr__(self, name: str, value: Any):
        raise AttributeError(f"{name} cannot be set: sections are immutable")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.items()))

    def __repr__(self) -> str:
        return f"Sections({self.__dict__})"


def is_section(value: Any) -> bool:
    """Whether a kind is a section of the configuration, or a dictionary of sections."""
    return dataclasses.is_dataclass(value) or isinstance(value, Sections)


def members(section: Any) -> dict[str, Any]:
    """A section's keys with their values and its sections; what is not a key is left out."""
    if isinstance(section, Sections):
        return dict(section)
    names = [
        f.name
        for f in dataclasses.fields(section)
        if "kind" in f.metadata or is_section(getattr(section, f.name))
    ]
    return {name: getattr(section, name) for name in names}


def values_of(section: Any) -> dict[str, Any]:
    """A section's keys with their values, its sections as nested dictionaries."""
    return {
        name: values_of(value) if is_section(value) else value
        for name, value in members(section).items()
    }


def value_errors(
    values: Mapping[str, Any], fields: Mapping[str, Field], prefix: str
) -> dict[str, str]:
    """Checks each value by itself for an unknown name or a value that is not allowed.

    Args:
      values: the values by name.
      fields: the fields that exist, by name.
      prefix: the prefix of names in messages, such as `config.eval.mine.`.

    Returns:
      A message for each name that is unknown or whose value is not allowed.
    """
    errors = {}
    for name, value in values.items():
        if name not in fields:
            errors[name] = (
                f"{prefix}{name}={shown(value)} is unknown; there are {', '.join(fields)}"
                f"{near(name, fields, prefix)}"
            )
        elif not fields[name].kind.holds(value):
            errors[name] = f"{prefix}{name}={shown(value)} should be {fields[name].kind.wanted}"
    return errors


def near(name: Any, known: Iterable[str], prefix: str = "") -> str:
    """ "; did you mean ...?" with the known name that is most like this one; empty if none is."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def integer(least: int = 0, most: int = INT32) -> Kind:
    """A whole number; truth values are none."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return Kind(f"a whole number from {least:,} to {most:,}", (int,), holds)


def number(
    least: int | float = 0, most: int | float = FLOAT32, *, above: bool = False, below: bool = False
) -> Kind:
    """A finite number; `above` leaves out `least`, `below` leaves out `most`."""

    def holds(value: Any) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        fits = least <= value <= most  # never true of NaN
        return fits and not (above and value <= least + TINY) and not (below and value == most)

    begin = f"above {least:g}" if above else f"of at least {least:g}"
    end = f"below {most:g}" if below else f"at most {most:g}"
    return Kind(f"a number {begin} and {end}", (float,), holds, typed=float)


def flag() -> Kind:
    """True or False."""
    return Kind("True or False", (bool,), lambda value: isinstance(value, bool))


def choice(*names: str) -> Kind:
    """One of these names."""
    known = ", ".join(name or "'' (none)" for name in names)
    return Kind(f"one of {known}", (str,), lambda value: isinstance(value, str) and value in names)


def registered(registry: Registry) -> Kind:
    """A name in a registry, which a user's own file may add to."""
    return Kind(
        lambda: f"one of {', '.join(registry)}",
        (str,),
        lambda value: value in registry,
        registered=True,
    )


def text(*, empty: bool = True, having: str = "", escaped: bool = False) -> Kind:
    """A text that can be written as UTF-8, without NUL.

    Args:
      empty: whether it may be empty; blank it may not be.
      having: what must occur in it.
      escaped: whether bytes that are not UTF-8 may be in it, as Python has them in names of files.
    """

    def holds(value: Any) -> bool:
        if not isinstance(value, str) or not _is_encodable(value, escaped) or having not in value:
            return False
        return bool(value.strip()) or (empty and not value)

    wanted = f"a text {'that may be empty' if empty else 'that is not blank'}"
    wanted += f", with {having} in it" if having else ""
    return Kind(f"{wanted}, of at most {LONGEST:,} characters and without NUL", (str,), holds)


def path(*, empty: bool = True) -> Kind:
    """A path, URL or pattern of them; empty: none."""
    wanted = f"a path{' or empty' if empty else ' that is not empty'}, without NUL"
    return dataclasses.replace(text(empty=empty, escaped=True), description=wanted)


def _is_encodable(value: str, escaped: bool = False) -> bool:
    if "\0" in value or len(value) > LONGEST:
        return False
    try:
        value.encode("utf-8", "surrogateescape" if escaped else "strict")
    except UnicodeEncodeError:
        return False
    return True


def pattern(*, empty: bool = True) -> Kind:
    """A regular expression; with `empty=False` not of blanks alone."""

    def holds(value: Any) -> bool:
        if not isinstance(value, str) or not (value.strip() or empty) or not _is_encodable(value):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about it, it would do all the same
            try:
                re.compile(value)
            except (re.error, OverflowError, RecursionError):
                return False
        return True

    return Kind("a regular expression", (str,), holds)


def template() -> Kind:
    """A format with fields by name; empty: none."""

    def holds(value: Any) -> bool:
        if not isinstance(value, str) or not _is_encodable(value):
            return False
        try:
            parts = list(string.Formatter().parse(value))
        except ValueError:
            return False
        return all(
            (field is None or field.lstrip("0123456789")) and conversion in (None, "r", "s", "a")
            for _, field, _, conversion in parts
        )

    return Kind("a format with fields by name, as '{title}. {caption}'", (str,), holds)


def plain() -> Kind:
    """A text, truth value, whole or finite number."""

    def holds(value: Any) -> bool:
        if isinstance(value, float):
            return math.isfinite(value)
        return _is_encodable(value) if isinstance(value, str) else isinstance(value, int)

    return Kind("a text, True, False or a finite number", (bool, int, float, str), holds)


def several(kind: Kind, *, least: int = 0, distinct: bool = False, wanted: str = "") -> Kind:
    """A tuple or list of values of one kind, `least` of them or more, none twice if `distinct`."""

    def holds(value: Any) -> bool:
        if not is_sequence(value) or len(value) < least or not all(map(kind.holds, value)):
            return False
        return not distinct or len(set(value)) == len(value)

    count = f"a list of {f'{least} or more' if least else 'any number'}"
    count += " of different ones" if distinct else ""

    def typed(value: Any) -> tuple:
        return tuple(map(kind.typed, value))

    return Kind(
        wanted or (lambda: f"{count} of: {kind.wanted}"), (tuple,), holds, kind.registered, typed
    )


def row(*kinds: Kind, wanted: str = "") -> Kind:
    """A tuple or list with one value of each kind."""

    def holds(value: Any) -> bool:
        if not is_sequence(value) or len(value) != len(kinds):
            return False
        return all(kind.holds(part) for kind, part in zip(kinds, value, strict=True))

    def typed(value: Any) -> tuple:
        return tuple(kind.typed(part) for kind, part in zip(kinds, value, strict=True))

    wanted = wanted or f"({', '.join(kind.wanted for kind in kinds)})"
    return Kind(wanted, (tuple,), holds, typed=typed)


def either(*kinds: Kind) -> Kind:
    """One of several kinds."""
    types = tuple(dict.fromkeys(kind for each in kinds for kind in each.types))
    types = tuple(sorted(types, key=lambda kind: kind is str))  # anything can be read as a text
    wanted = ", or ".join(kind.wanted for kind in kinds)

    def typed(value: Any) -> Any:
        return next(kind.typed(value) for kind in kinds if kind.holds(value))

    return Kind(wanted, types, lambda value: any(kind.holds(value) for kind in kinds), typed=typed)


def nothing() -> Kind:
    """None."""
    return Kind("None", (NONE,), lambda value: value is None)


def is_sequence(value: Any) -> bool:
    """Whether a value is a tuple or a list."""
    return isinstance(value, (tuple, list))


def read(words: str, kind: Kind) -> Any:
    """A text of the command line as a value of a kind.

    Raises:
      ValueError: it is none; the argument is what it could be read as, else the text.
    """
    closest: Any = words
    for each in kind.types:
        try:
            value = READERS[each](words)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if kind.holds(value):
            return value
        closest = value
    raise ValueError(closest)


def shown(value: Any) -> str:
    """A value for a message, on one line however long it is."""
    try:
        words = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    except Exception as error:  # whatever a value's own class may raise
        return f"<{type(value).__name__}: {error}>"
    return words if len(words) <= 200 else f"{words[:150]} ... {words[-40:]}"


def _read_flag(words: str) -> bool:
    if words.lower() not in ("true", "false"):
        raise ValueError(words)
    return words.lower() == "true"


def _read_none(words: str) -> None:
    if words.lower() != "none":
        raise ValueError(words)


def _read_tuple(words: str) -> tuple:
    value = ast.literal_eval(words.strip())
    if not is_sequence(value):
        raise ValueError(words)
    return _tuples(value)


READERS: dict[type, Callable[[str], Any]] = {
    bool: _read_flag,
    int: int,
    float: float,
    tuple: _read_tuple,
    NONE: _read_none,
    str: str,
}
