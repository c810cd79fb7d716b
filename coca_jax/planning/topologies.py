"""TPU pods and GPU clusters by name: their devices, which need not be here.

libtpu compiles for TPUs on any machine, and the CUDA plugin for GPUs.
"""

import os
from typing import Any, NamedTuple

import jax

from coca_jax.errors import UserError
from coca_jax.planning import cuda
from coca_jax.planning.chips import GENERATIONS, GPUS, Generation
from coca_jax.planning.peaks import PEAKS


class Topology(NamedTuple):
    """The devices of a TPU pod or a GPU cluster, which need not be here."""

    name: str
    generation: Generation
    devices: list[Any]
    slices: int = 1  # or machines of GPUs
    missing: str = ""  # why no compiler is here; other devices then stand for the GPUs

    @property
    def compiles(self) -> bool:
        """Whether a compiler for these devices is here."""
        return not self.missing

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
    """Makes JAX use CPUs only and libtpu look for no TPU; call it before JAX is used.

    XLA's warnings on standard error, which JAX lets through, are about a device's absence.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # JAX's default
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
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
    """Machines x GPUs; without a CUDA plugin that compiles, CPU devices stand for the GPUs."""
    kind, _, shape = name.partition(":")
    sides = shape.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"topology {name!r} should be machines x GPUs, like {kind}:4x8")
    machines, each = map(int, sides)
    missing = f"no compiler for {name} is installed: {cuda.INSTALL}"
    if cuda.is_installed():
        try:
            return Topology(name, GPUS[kind], cuda.devices(GPUS[kind], machines, each), machines)
        except UserError as error:
            missing = str(error)
    jax.config.update("jax_num_cpu_devices", machines * each)
    return Topology(name, GPUS[kind], jax.devices()[: machines * each], machines, missing)
