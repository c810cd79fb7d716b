"""Variables of the environment for JAX that the commands ignore, and why."""

import os
import sys
from typing import NamedTuple


class Switch(NamedTuple):
    """A variable that would break or change what a command computes."""

    name: str  # of the variable; in lower case of JAX's option
    values: tuple[str, ...]  # that are ignored
    instead: str
    reason: str


TRUE = ("1", "true", "yes", "on", "t", "y")
GUARD = ("disallow", "disallow_explicit")
SWITCHES = (
    Switch("JAX_ENABLE_X64", TRUE, "0", "models and their random numbers are float32"),
    Switch("JAX_DISABLE_JIT", TRUE, "0", "programs are compiled before they are run"),
    Switch("JAX_NUMPY_DTYPE_PROMOTION", ("strict",), "standard", "Optax's Adam mixes types"),
    *(
        Switch(f"JAX_TRANSFER_GUARD{kind}", GUARD, "allow", "data, metrics and checkpoints move")
        for kind in ("", "_HOST_TO_DEVICE", "_DEVICE_TO_HOST", "_DEVICE_TO_DEVICE")
    ),
)


def overrule() -> list[str]:
    """Sets the variables as the commands need them, in this process and its children.

    Returns:
      A line for each that had another value.
    """
    lines = []
    for name, values, instead, reason in SWITCHES:
        given = os.environ.get(name, "")
        if given.lower() in values:
            os.environ[name] = instead
            if "jax" in sys.modules:
                value = bool(int(instead)) if instead.isdecimal() else instead
                sys.modules["jax"].config.update(name.lower(), value)
            lines.append(f"{name}={given} is ignored: {reason}")
    return lines
