"""Chips of TPUs and GPUs: their rates, their memory, and what a compiler needs to know of them.

Peak rates are those of the makers' data sheets, and nine tenths of them for the links between
TPUs; the network's are per chip of a full pod. The memory that a program may use (`limit`) is what
libtpu 0.0.42 reports when it refuses a program that is too large; of a GPU, nine tenths of all.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

KIB, MIB, GIB = 2**10, 2**20, 2**30


class Target(NamedTuple):
    """A GPU as XLA's compiler is told of it: the figures that it reads from a device that is there.

    From CUDA's device properties, as openxla/xla lists them for these chips in
    `xla/backends/gpu/target_config/specs`.
    """

    name: str  # `device_kind`
    capability: int  # major compute capability
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    shared_memory: int  # bytes of a core
    shared_memory_of_block: int  # bytes that a block may ask for
    l2_cache: int  # bytes
    clock_ghz: float
    memory: int  # bytes
    bandwidth: int  # bytes a second


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
    target: Target | None = None  # of a GPU
    # The shares of peak FLOP/s and of the memory's rate that a good kernel attains.
    attained_flops: float = 1.0
    attained_memory: float = 1.0


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
USABLE = 0.9  # of a GPU's memory: XLA_PYTHON_CLIENT_MEM_FRACTION, whose default is 0.75
_HOPPER = Target(
    "NVIDIA H100 80GB HBM3",
    capability=9,
    cores=132,
    lanes=128,
    shared_memory=228 * KIB,
    shared_memory_of_block=227 * KIB,
    l2_cache=50 * MIB,
    clock_ghz=1.98,
    memory=84_942_979_072,
    bandwidth=3_352_320_000_000,
)
TARGETS = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB",
        capability=8,
        cores=108,
        lanes=64,
        shared_memory=164 * KIB,
        shared_memory_of_block=163 * KIB,
        l2_cache=40 * MIB,
        clock_ghz=1.41,
        memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
    ),
    "h100": _HOPPER,
    "h200": _HOPPER._replace(
        name="NVIDIA H200", memory=151_397_597_184, bandwidth=4_800_000_000_000
    ),
    "b200": _HOPPER._replace(
        name="NVIDIA B200",
        capability=10,
        cores=148,
        l2_cache=132_644_864,
        clock_ghz=1.965,
        memory=191_514_411_008,
        bandwidth=7_672_320_000_000,
    ),
}


def _gpu(kind: str, memory: float, link: float, network: float) -> Generation:
    """A GPU of `TARGETS`, with its attained rates.

    800 of 989 TFLOP/s is what an H200 reached on large bfloat16 matmuls (770 to 800). 85% of the
    memory's rate is what kernels that only stream attain; with both, the sum over the kernels of a
    compiled step was 9% below the time that an H100 took for it. The other chips are assumed to
    attain the same shares.
    """
    target = TARGETS[kind]
    return Generation(
        f"NVIDIA {kind.upper()}",
        int(USABLE * target.memory),
        "4x8",
        memory=memory,
        link=link,
        network=network,
        target=target,
        attained_flops=800 / 989,
        attained_memory=0.85,
    )


# Topologies are machines x GPUs; the GPUs of a machine share a switch.
GPUS = {
    "a100": _gpu("a100", memory=2.04e12, link=300e9, network=25e9),
    "h100": _gpu("h100", memory=3.35e12, link=450e9, network=50e9),
    "h200": _gpu("h200", memory=4.8e12, link=450e9, network=50e9),
    "b200": _gpu("b200", memory=8e12, link=900e9, network=50e9),
}
