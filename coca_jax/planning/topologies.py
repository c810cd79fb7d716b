"""TPU pods and GPU clusters by name: their devices, which need not be here, and their rates.

libtpu compiles for a topology on any machine. The memory that a program may use (`limit`) is what
libtpu 0.0.42 reports when it refuses a program that is too large. Rates are those of the makers'
data sheets, and nine tenths of them for the links between TPUs; the network's are per chip of a
full pod.
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
    """A kind of chip; a device is a chip, but for tpu7x, whose chips are two devices."""

    kind: str  # jax's name of the device, a key of `PEAKS`
    limit: int  # bytes of memory that a program may use on a device
    example: str  # of a topology
    memory: float  # bytes a second between a device and its memory
    link: float  # bytes a second and direction, of a link to a neighbor, a device's share
    network: float  # bytes a second between slices, a device's share
    wraps: int = 0  # a side of the pod that is a multiple of it is a ring; 0: there are no sides
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
# Machines x GPUs; a machine's GPUs share a switch.
USABLE = 0.9  # of a GPU's memory: XLA_PYTHON_CLIENT_MEM_FRACTION, whose default is 0.75
GPUS = {
    "a100": Generation(
        "NVIDIA A100", int(USABLE * 80e9), "4x8", memory=2.04e12, link=300e9, network=25e9
    ),
    "h100": Generation(
        "NVIDIA H100", int(USABLE * 80e9), "4x8", memory=3.35e12, link=450e9, network=50e9
    ),
    "h200": Generation(
        "NVIDIA H200", int(USABLE * 141e9), "4x8", memory=4.8e12, link=450e9, network=50e9
    ),
}


class Topology(NamedTuple):
    """The devices of a TPU pod or a GPU cluster, which need not be here."""

    name: str
    generation: Generation
    devices: list[Any]
    slices: int = 1  # or machines of GPUs

    @property
    def switched(self) -> bool:
        """Whether a slice's devices are joined by a switch, as GPUs are, and not as a torus."""
        return not self.generation.wraps

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
    """Makes JAX use CPUs only and libtpu look for no TPU; call it before JAX is used."""
    jax.config.update("jax_platforms", "cpu")  # JAX has read JAX_PLATFORMS already
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # Any will do; without them libtpu complains on standard error.
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def find_topology(name: str, slices: int = 1) -> Topology:
    """The devices of `slices` slices of a TPU topology such as `v4:8x16x16`, or of `h100:4x8`.

    Raises:
      UserError: there is no such generation or shape, or libtpu is not installed.
    """
    if slices < 1:
        raise UserError(f"--slices {slices} should be at least 1")
    generation, _, shape = name.partition(":")
    if generation in GPUS:
        if slices > 1:
            raise UserError(
                f"--slices {slices} is for TPUs: topology {name!r} says how many machines there are"
            )
        return _cluster(name)
    if generation not in GENERATIONS or not shape:
        examples = ", ".join(f"{k}:{v.example}" for k, v in (GENERATIONS | GPUS).items())
        raise UserError(f"topology {name!r} is not known; examples of known ones: {examples}")
    chip = GENERATIONS[generation]
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError('libtpu is not installed: pip install "coca_jax[plan]"') from error
    from jax.experimental import topologies

    options = dict(chip.options) | ({"num_slices": slices} if slices > 1 else {})
    try:
        described = topologies.get_topology_desc(name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        example = f"{generation}:{chip.example}"
        raise UserError(f"topology {name!r} is not like {example}: {reason}") from error
    return Topology(name, chip, list(described.devices), slices)


def _cluster(name: str) -> Topology:
    """Machines x GPUs; CPU devices stand for the GPUs, for which nothing is compiled."""
    kind, _, shape = name.partition(":")
    sides = shape.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"topology {name!r} should be machines x GPUs, like {kind}:4x8")
    machines, each = map(int, sides)
    jax.config.update("jax_num_cpu_devices", machines * each)
    return Topology(name, GPUS[kind], jax.devices()[: machines * each], machines)
