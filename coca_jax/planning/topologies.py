"""TPU pods by name: their devices without the pod, and what a chip can do.

libtpu compiles for a topology on any machine. What a device may use of its memory (`limit`) is what
libtpu 0.0.42 says when it refuses a program that is too large. Rates are those of the makers' data
sheets, of the links between chips nine tenths of them; the network's are per chip of a full pod.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from coca_jax.errors import UserError
from coca_jax.planning.peaks import PEAKS

GIB = 2**30


class Generation(NamedTuple):
    """A generation of TPUs; a device is a chip, but for tpu7x, whose chips are two devices."""

    kind: str  # jax's name of the device, a key of `PEAKS`
    limit: int  # bytes of memory that a program may use on a device
    example: str  # of a topology
    memory: float  # bytes a second between a device and its memory
    link: float  # bytes a second and direction, of a link to a neighbour, a device's share
    network: float  # bytes a second between slices, a device's share
    wraps: int  # a side of the pod that is a multiple of it is a ring
    options: Mapping[str, str] = MappingProxyType({})  # libtpu's
    devices_per_chip: int = 1


MEGACORE = {"chip_config_name": "megacore"}  # one device a chip, not two
GENERATIONS = {
    "v4": Generation(
        "TPU v4", int(30.75 * GIB), "8x16x16", 1.228e12, 45e9, 6.25e9, wraps=4, options=MEGACORE
    ),
    "v5e": Generation("TPU v5 lite", int(15.75 * GIB), "16x16", 819e9, 45e9, 3.125e9, wraps=16),
    "v5p": Generation(
        "TPU v5", int(95.74 * GIB), "8x8x16", 2.765e12, 90e9, 6.25e9, wraps=4, options=MEGACORE
    ),
    "v6e": Generation("TPU v6 lite", int(31.25 * GIB), "16x16", 1.64e12, 90e9, 12.5e9, wraps=16),
    "tpu7x": Generation(
        "TPU7x", int(94.75 * GIB), "4x4x4", 3.69e12, 45e9, 6.25e9, wraps=4, devices_per_chip=2
    ),
}


class Topology(NamedTuple):
    """A pod that need not be there."""

    name: str
    generation: Generation
    devices: list[Any]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.devices) // self.generation.devices_per_chip

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s of all devices."""
        return len(self.devices) * PEAKS[self.generation.kind]

    @property
    def sides(self) -> tuple[int, ...]:
        """Chips along each side of a slice."""
        return tuple(max(c) + 1 for c in zip(*(d.coords for d in self.devices), strict=True))


def prepare_environment() -> None:
    """Keeps libtpu from looking for a TPU here; call it before JAX is used."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # Any will do; without them libtpu complains on standard error.
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def find_topology(name: str, slices: int = 1) -> Topology:
    """The devices of so many slices of a topology such as `v4:8x16x16`.

    Raises:
      UserError: there is no such generation or shape, or libtpu is not installed.
    """
    if slices < 1:
        raise UserError(f"--slices {slices} should be at least 1")
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

    options = dict(known.options) | ({"num_slices": slices} if slices > 1 else {})
    try:
        described = topologies.get_topology_desc(name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"topology {name!r}, say {generation}:{known.example}: {reason}") from error
    return Topology(name, known, list(described.devices), slices)
