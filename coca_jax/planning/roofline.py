"""The roofline of a train step: the least time that it can take at the devices' rates.

Four terms: matmuls at peak FLOP/s; HBM bytes at the memory's bandwidth; collectives within a slice,
as rings over the sides of the torus that their group spans (of GPUs: through the switch of their
machine); collectives between slices or machines over the network. If all terms overlap, the longest
is the step's time; if none do, it is their sum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from coca_jax.planning.hlo import Collective
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
    a_slice = len(topology.devices) // topology.slices
    for collective in collectives:
        group = [devices[i] for i in collective.group] or devices[:a_slice]
        if topology.switched:
            within, across = _switched(collective, a_slice, topology)
        elif collective.kind == "send":
            within, across = 0.0, collective.size / topology.generation.network
        else:
            within, across = _torus(collective, group, topology), 0.0
        terms["interconnect"] += collective.times * within
        terms["between_slices"] += collective.times * across
        seconds = collective.times * (within + across)
        size = {"send": topology.slices, "collective-permute": 2}.get(collective.kind, len(group))
        row = rows.setdefault(
            (collective.kind, size),
            {"kind": collective.kind, "devices": size, "count": 0, "bytes": 0, "seconds": 0.0},
        )
        row["count"] += collective.times
        row["bytes"] += collective.times * collective.size
        row["seconds"] += seconds
    return terms, sorted(rows.values(), key=lambda row: -row["seconds"])


def _torus(collective: Collective, group: Sequence[Any], topology: Topology) -> float:
    """Seconds of one collective: bytes through a device's links, at their rate."""
    generation = topology.generation
    if collective.kind == "collective-permute":  # to one neighbor
        return collective.size / generation.link
    passed = _passed(collective, len(group))
    return passed / (generation.link * _links(group, topology.sides, generation.wraps))


def _switched(collective: Collective, machine: int, topology: Topology) -> tuple[float, float]:
    """Seconds within machines and between them; each GPU brings its share over the network."""
    machines = len({i // machine for i in collective.group})
    each = len(collective.group) // machines
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
