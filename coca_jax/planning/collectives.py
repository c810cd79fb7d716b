"""The collectives of a compiled program."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from coca_jax.planning.hlo import Computation, Instruction, Program, integers

COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|send)(-start)?"
)


class Collective(NamedTuple):
    """One collective, and how often a step runs it."""

    kind: str
    size: int  # bytes of the whole array that a device gets, reduces or sends
    group: tuple[int, ...]  # see `first_group`
    times: int


def collectives(program: Program) -> list[Collective]:
    """Every collective of a program, those inside of fusions included."""
    return [
        collective
        for computation, instruction, times in program.runs()
        for collective in collectives_of(program, computation, instruction, times)
    ]


def collectives_of(
    program: Program, computation: Computation, instruction: Instruction, times: int
) -> Iterator[Collective]:
    """The collective that an instruction is, or those that are inside of a fusion.

    Args:
      program: the whole program.
      computation: that the instruction is in.
      instruction: one of its instructions.
      times: how often a step runs it.
    """
    if match := COLLECTIVE.fullmatch(instruction.kind):
        kind = match[1]
        sizes = [b.size for b in computation.results(instruction)]
        size = sizes[0] if kind in ("collective-permute", "send") else sum(sizes)
        group = first_group(instruction.rest)
        if kind == "reduce-scatter":
            size *= max(len(group), 1)
        # XLA fuses an all-reduce and the slice of it that a device keeps.
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        yield Collective(kind, size, group, times)
    elif instruction.kind in ("fusion", "fusion-start"):
        inner = program.computations[instruction.called("calls")]
        for part in inner.instructions.values():
            yield from collectives_of(program, inner, part, times)


def first_group(attributes: str) -> tuple[int, ...]:
    """The first group of partitions of a collective; empty for all, or if it names none.

    Where pairs are named instead, it is all sources and targets in turn: which pair is the
    slowest depends on the topology.

    Groups are written as lists, `{{0,1},{2,3}}`; as a reshaped and transposed count,
    `[2,2]<=[4]` or `[2,2]<=[2,2]T(1,0)`; or as axes of a mesh, whose devices are
    counted in the same way.
    """
    if paired := re.search(r"source_target_pairs=\{([\d,{}]+)\}", attributes):
        return tuple(map(int, re.findall(r"\d+", paired[1])))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(int(i) for i in listed[1].split(","))
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if counted:
        size = integers(counted[1])[-1]
        return tuple(_counted(counted[2], counted[3])[:size])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{([^}]*)\}",
        attributes,
    )
    if not named:
        return ()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
    ids = _counted(named[2] or str(math.prod(sizes.values())), named[3])
    axes, stride, group = re.findall(r"'(\w+)'", named[4]), {}, [0]
    for name in reversed(sizes):
        stride[name] = math.prod(list(sizes.values())[list(sizes).index(name) + 1 :])
    for axis in axes:
        group = [at + stride[axis] * i for at in group for i in range(sizes[axis])]
    return tuple(ids[at] for at in group)


def _counted(shape: str, order: str | None) -> list[int]:
    """0, 1, 2, ... in a shape, its axes in another order, as one list."""
    sizes = integers(shape)
    order = integers(order) if order else range(len(sizes))
    stride = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    ids = [0]
    for axis in order:
        ids = [at + stride[axis] * i for at in ids for i in range(sizes[axis])]
    return ids
