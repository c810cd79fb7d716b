"""The roofline of a train step: the least time that it can take at the devices' rates.

Four terms: matmuls at peak FLOP/s; HBM bytes at the memory's bandwidth; collectives within a slice,
as rings over the sides of the torus that their group spans (of GPUs: through the switch of their
machine); collectives between slices or machines over the network. If all terms overlap, the longest
is the step's time; if none do, it is their sum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from coca_jax.planning.collectives import Collective
from coca_jax.planning.kernels import Kernel
from coca_jax.planning.peaks import PEAKS
from coca_jax.planning.topologies import Topology


def roofline(
    hardware_flops: int,
    hbm_bytes: int,
    collectives: Sequence[Collective],
    topology: Topology,
    devices: Sequence[Any],
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Seconds by term, and the collectives by kind and size of their group.

    Args:
      hardware_flops: of all devices, rematerialization included.
      hbm_bytes: bytes that a device reads from and writes to its memory.
      collectives: those of a step.
      topology: of the devices.
      devices: in the order of the mesh.

    Returns:
      `matrix`, `memory`, `interconnect`, `between_slices`; and rows of `kind`, `devices`, `count`
      and `bytes` (of the arrays of a device) in a step, and their `seconds`.
    """
    terms = {
        "matrix": hardware_flops / topology.peak,
        "memory": hbm_bytes / topology.generation.memory,
        "interconnect": 0.0,
        "between_slices": 0.0,
    }
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    everybody = len(topology.devices) // (1 if topology.switched else topology.slices)
    for collective in collectives:
        group = collective.group or range(everybody)
        within, across = (
            collective.times * seconds for seconds in _collective(collective, topology, devices)
        )
        terms["interconnect"] += within
        terms["between_slices"] += across
        size = {"send": topology.slices, "collective-permute": 2}.get(collective.kind, len(group))
        row = rows.setdefault(
            (collective.kind, size),
            {"kind": collective.kind, "devices": size, "count": 0, "bytes": 0, "seconds": 0.0},
        )
        row["count"] += collective.times
        row["bytes"] += collective.times * collective.size
        row["seconds"] += within + across
    return terms, sorted(rows.values(), key=lambda row: -row["seconds"])


def kernel_table(
    kernels: Iterable[Kernel], topology: Topology, devices: Sequence[Any]
) -> list[dict[str, Any]]:
    """The kernels by part of the model and kind, those that take the longest first.

    Kernels run one after another; each takes the longer of its matmuls' time and its memory's time
    at the rates that kernels attain. Collectives run one after another on the links. Asynchronous
    ones run while other kernels do, and count with the time that the step waits; one for which only
    a loop's next round waits counts in full, as if no kernel ran meanwhile.

    Returns:
      Rows of `part`, `kind`, and of a step `count`, `bytes`, `flops` (both of a device) and
      `seconds`, which add up to the time of the step.
    """
    kernels = list(kernels)
    last_waits = {kernel.waits: place for place, kernel in enumerate(kernels)}
    now, links_free, ends = 0.0, 0.0, {}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for place, kernel in enumerate(kernels):
        if kernel.waits:
            if kernel.waits not in ends:  # no collective, or one of a loop's round before
                continue
            row, end = ends.pop(kernel.waits)
        else:
            zeros = {"count": 0, "bytes": 0, "flops": 0, "seconds": 0.0}
            key = {"part": kernel.part, "kind": kernel.kind}
            row = rows.setdefault((kernel.part, kernel.kind), key | zeros)
            row["count"] += kernel.times
            row["bytes"] += kernel.times * kernel.bytes
            row["flops"] += kernel.times * kernel.flops
            end = now + kernel.times * _seconds(kernel, topology)
        if kernel.collectives:
            passing = sum(sum(_collective(c, topology, devices)) for c in kernel.collectives)
            links_free = max(links_free, now) + kernel.times * passing
            end = max(end, links_free)
        if kernel.starts and kernel.collectives and last_waits.get(kernel.starts, 0) > place:
            ends[kernel.starts] = row, end
        else:
            row["seconds"] += max(end - now, 0.0)
            now = max(end, now)
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def _seconds(kernel: Kernel, topology: Topology) -> float:
    """Seconds of one run of a kernel on a device, without links."""
    chip = topology.generation
    return max(
        kernel.flops / (chip.attained_flops * PEAKS[chip.kind]),
        kernel.bytes / (chip.attained_memory * chip.memory),
    )


def _collective(
    collective: Collective, topology: Topology, devices: Sequence[Any]
) -> tuple[float, float]:
    """Seconds of one run of a collective, within slices and between them."""
    a_slice = len(topology.devices) // topology.slices
    if topology.switched:
        return _switched(collective, a_slice, topology)
    if collective.kind == "send":
        return 0.0, collective.size / topology.generation.network
    group = [devices[i] for i in collective.group] or devices[:a_slice]
    return _torus(collective, group, topology), 0.0


def _torus(collective: Collective, group: Sequence[Any], topology: Topology) -> float:
    """Seconds of one collective: bytes through a device's links, at their rate."""
    generation = topology.generation
    if collective.kind == "collective-permute":  # to one neighbor
        return collective.size / generation.link
    passed = _passed(collective, len(group))
    return passed / (generation.link * _links(group, topology.sides, generation.wraps))


def _switched(collective: Collective, machine: int, topology: Topology) -> tuple[float, float]:
    """Seconds within machines and between them; each GPU brings its share over the network."""
    group = collective.group or range(len(topology.devices))
    if collective.kind in ("collective-permute", "send"):  # as slow as its slowest pair
        pairs = zip(group[::2], group[1::2], strict=True)
        if any(source // machine != target // machine for source, target in pairs):
            return 0.0, collective.size / topology.generation.network
        return collective.size / topology.generation.link, 0.0
    machines = len({i // machine for i in group})
    each = len(group) // machines
    within = _passed(collective, each) / topology.generation.link
    return within, _passed(collective, machines) / each / topology.generation.network


def _passed(collective: Collective, parts: int) -> float:
    """Bytes that each of `parts` devices must send in a ring."""
    once = collective.size * (parts - 1) / parts
    return 2 * once if collective.kind == "all-reduce" else once


def _links(group: Iterable[Any], sides: Sequence[int], wraps: int) -> int:
    """Links that a device can use at once: two for each side that is a ring, else one."""
    links = 0
    for places, side in zip(zip(*(d.coords for d in group), strict=True), sides, strict=True):
        extent = len(set(places))
        ring = extent == side and side % wraps == 0
        links += 0 if extent == 1 else 2 if ring else 1
    return links or 2  # devices of one chip
