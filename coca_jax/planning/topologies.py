"""TPU pods by name: their devices without the pod, and what a chip can do.

libtpu compiles for a topology on any machine. What a device may use of its memory (`limit`) is what
libtpu 0.0.42 says when it refuses a program that is too large.
"""

import os
from typing import Any, NamedTuple

import jax

from coca_jax.errors import UserError
from coca_jax.planning.peaks import PEAKS

GIB = 2**30


class Generation(NamedTuple):
    """A generation of TPUs; a device is a chip, but for tpu7x, whose chips are two devices."""

    kind: str  # jax's name of the device, a key of `PEAKS`
    limit: int  # bytes of memory that a program may use on a device
    devices_per_chip: int
    example: str  # of a topology
    options: dict[str, str]


GENERATIONS = {
    "v4": Generation("TPU v4", int(30.75 * GIB), 1, "8x16x16", {"chip_config_name": "megacore"}),
    "v5e": Generation("TPU v5 lite", int(15.75 * GIB), 1, "16x16", {}),
    "v5p": Generation("TPU v5", int(95.74 * GIB), 1, "8x8x16", {"chip_config_name": "megacore"}),
    "v6e": Generation("TPU v6 lite", int(31.25 * GIB), 1, "16x16", {}),
    "tpu7x": Generation("TPU7x", int(94.75 * GIB), 2, "4x4x4", {}),
}


class Topology(NamedTuple):
    """A pod that need not be there."""

    name: str
    generation: Generation
    devices: list[Any]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.devices) // self.generation.devices_per_chip

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s of all devices."""
        return len(self.devices) * PEAKS[self.generation.kind]


def prepare_environment() -> None:
    """Keeps libtpu from looking for a TPU here; call it before JAX is used."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def find_topology(name: str) -> Topology:
    """The devices of a topology such as `v4:8x16x16`.

    Raises:
      UserError: there is no such generation or shape, or libtpu is not installed.
    """
    generation, _, shape = name.partition(":")
    if generation not in GENERATIONS or not shape:
        known = ", ".join(f"{key}:{value.example}" for key, value in GENERATIONS.items())
        raise UserError(f"topology {name!r} is not known; there are others like {known}")
    known = GENERATIONS[generation]
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError('libtpu is not installed: pip install "coca_jax[plan]"') from error
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(name, platform="tpu", **known.options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"topology {name!r}, say {generation}:{known.example}: {reason}") from error
    return Topology(name, known, list(described.devices))
