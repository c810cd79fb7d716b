"""The least time that a compiled step can take: what it computes and moves, at the devices' rates.

Four terms: matrix products at the peak; bytes through a device's memory; exchanges between devices
of a slice, each by rings over the sides of the torus that its group spans; exchanges between slices
over the network. If all overlap, the longest is the step's time; if none do, their sum.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from coca_jax.planning.program import Collective, Program
from coca_jax.planning.topologies import Topology


def roofline(
    program: Program, executed_flops: int, topology: Topology, devices: Sequence[Any]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Seconds by term, and the exchanges between devices by kind and size of their group.

    Args:
      program: the compiled step.
      executed_flops: of all devices, what is computed again included.
      topology: that it was compiled for.
      devices: in the order of the mesh.

    Returns:
      `matrix`, `memory`, `interconnect`, `between_slices`; and rows of `kind`, `devices`, `count`
      and `bytes` (of the arrays that a device exchanges) in a step, and their `seconds`.
    """
    terms = {
        "matrix": executed_flops / topology.peak,
        "memory": program.traffic() / topology.generation.memory,
        "interconnect": 0.0,
        "between_slices": 0.0,
    }
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for collective in program.collectives():
        group = [devices[i] for i in collective.group] or devices[: _a_slice(topology)]
        across = collective.kind == "send"
        seconds = collective.times * _seconds(collective, group, topology)
        terms["between_slices" if across else "interconnect"] += seconds
        size = topology.slices if across else len(group)
        size = 2 if collective.kind == "collective-permute" else size
        row = rows.setdefault(
            (collective.kind, size),
            {"kind": collective.kind, "devices": size, "count": 0, "bytes": 0, "seconds": 0.0},
        )
        row["count"] += collective.times
        row["bytes"] += collective.times * collective.size
        row["seconds"] += seconds
    return terms, sorted(rows.values(), key=lambda row: -row["seconds"])


def _a_slice(topology: Topology) -> int:
    return len(topology.devices) // topology.slices


def _seconds(collective: Collective, group: Sequence[Any], topology: Topology) -> float:
    """Of one exchange: bytes that must pass through a device's links, at their rate."""
    known = topology.generation
    if collective.kind == "send":
        return collective.size / known.network
    if collective.kind == "collective-permute":  # to one neighbour
        return collective.size / known.link
    passed = collective.size * (len(group) - 1) / len(group)
    passed *= 2 if collective.kind == "all-reduce" else 1
    return passed / (known.link * _links(group, topology.sides, known.wraps))


def _links(group: Iterable[Any], sides: Sequence[int], wraps: int) -> int:
    """Links that a device can use at once: two a side that the group goes round, else one."""
    links = 0
    for places, side in zip(zip(*(d.coords for d in group), strict=True), sides, strict=True):
        extent = len(set(places))
        ring = extent == side and side % wraps == 0
        links += 0 if extent == 1 else 2 if ring else 1
    return links or 2  # devices of one chip
