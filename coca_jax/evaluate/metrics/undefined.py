"""Metrics that have no value, with the reason."""

from collections.abc import Mapping
from typing import Any


class Undefined(float):
    """NaN that says why: `null` with a note in JSON, `-` in tables, and no point of a curve.

    It equals another one with the same reason, so that results can be compared.
    """

    reason: str

    def __new__(cls, reason: str) -> "Undefined":
        """Makes one for a reason, which is a sentence or a part of one."""
        self = super().__new__(cls, "nan")
        self.reason = reason
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Undefined) and other.reason == self.reason

    def __hash__(self) -> int:
        return hash(self.reason)

    def __reduce__(self) -> tuple:
        return Undefined, (self.reason,)


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that have a value."""
    return {name: v for name, v in metrics.items() if not isinstance(v, Undefined)}


def reasons(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The reason of each metric that has no value, by the metric's name."""
    return {name: v.reason for name, v in metrics.items() if isinstance(v, Undefined)}
