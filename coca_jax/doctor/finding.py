"""One line of an examination."""

import enum
from typing import NamedTuple


class State(enum.StrEnum):
    """How a thing is."""

    OK = "ok"
    OFF = "off"  # not there, and not needed
    PROBLEM = "problem"


class Finding(NamedTuple):
    """A thing, how it is, and what to do about it."""

    name: str
    state: State
    text: str
    fix: str = ""


def ok(name: str, text: str) -> Finding:
    """A thing that works."""
    return Finding(name, State.OK, text)


def off(name: str, text: str, fix: str = "") -> Finding:
    """A thing that is not there, and that only some need."""
    return Finding(name, State.OFF, text, fix)


def problem(name: str, text: str, fix: str = "") -> Finding:
    """A thing that is broken."""
    return Finding(name, State.PROBLEM, text, fix)
