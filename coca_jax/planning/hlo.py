"""HBM bytes and collectives of a compiled program, read from its HLO text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0}  # of an element; others have their number of bits
SHAPE = re.compile(r"\b(pred|token|opaque|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
HEADER = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
COLLECTIVE = re.compile(
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|send)(-start)?"
)
# Instructions that move no bytes, or whose bytes are counted elsewhere.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "custom-call",
}
FREE |= {"partition-id", "replica-id", "iota", "while", "call", "conditional"}
SLICES = {"dynamic-slice", "slice", "gather"}


class Buffer(NamedTuple):
    """One array of an instruction's result."""

    size: int  # bytes
    main: bool  # in the device's main memory, not in a cache, a register or the host


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    kind: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    rest: str  # attributes

    def called(self, attribute: str) -> str:
        """The computation that an attribute names; empty if there is none."""
        match = re.search(rf"\b{attribute}=%?([^\s,}}]+)", self.rest)
        return match[1] if match else ""


class Collective(NamedTuple):
    """One collective, and how often a step runs it."""

    kind: str
    size: int  # bytes of the whole array that a device gets, reduces or sends
    group: tuple[int, ...]  # the first group of devices; empty: all, or unknown
    times: int


class Computation(NamedTuple):
    """Instructions by name, and the one that is the result."""

    name: str
    instructions: dict[str, Instruction]
    root: str


class Program:
    """A compiled program: `hbm_bytes()` and `collectives()` of one run on one device."""

    def __init__(self, text: str):
        """Parses the `as_text()` of a compiled function."""
        self._computations = {c.name: c for c in _computations(text)}
        self._entry = re.search(r"^ENTRY %?(\S+)", text, re.MULTILINE)[1]

    def hbm_bytes(self) -> int:
        """Bytes read from and written to HBM; those that stay in caches do not count."""
        return sum(times * self._moved(c, i) for c, i, times in self._run(self._entry, 1))

    def collectives(self) -> list[Collective]:
        """Every collective, those inside of fusions included."""
        result = []
        for computation, instruction, times in self._run(self._entry, 1):
            result += self._collectives_of(computation, instruction, times)
        return result

    def _run(self, name: str, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        """Each instruction that is not part of a fusion, and how often it runs."""
        computation = self._computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            if instruction.kind == "while":
                trips = self._trips(instruction.called("condition"))
                yield from self._run(instruction.called("body"), times * trips)
            elif instruction.kind == "call":
                yield from self._run(instruction.called("to_apply"), times)
            elif instruction.kind == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
                for branch in re.findall(r"[^%\s,]+", branches[1]) if branches else []:
                    yield from self._run(branch, times)

    def _trips(self, condition: str) -> int:
        """The number of iterations of a loop: a scan counts to the one integer in its condition."""
        constants = [
            int(i.rest.partition(")")[0])
            for i in self._computations[condition].instructions.values()
            if i.kind == "constant" and re.match(r"\d+\)", i.rest)
        ]
        if not constants:
            raise ValueError(f"loop {condition!r} does not say how often it runs")
        return max(constants)

    def _collectives_of(
        self, computation: Computation, instruction: Instruction, times: int
    ) -> Iterator[Collective]:
        if match := COLLECTIVE.fullmatch(instruction.kind):
            kind = match[1]
            sizes = [b.size for b in instruction.buffers]
            size = sum(sizes)
            if kind in ("collective-permute", "send"):
                size = sizes[0]
            elif match[2]:  # of operand and result, the result
                size = sizes[-1] if kind == "all-gather" else size // 2
            group = first_group(instruction.rest)
            if kind == "reduce-scatter":
                size *= max(len(group), 1)
            # XLA fuses an all-reduce and the slice of it that a device keeps.
            if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            yield Collective(kind, size, group, times)
        elif instruction.kind in ("fusion", "async-start"):
            inner = self._computations[instruction.called("calls")]
            for part in inner.instructions.values():
                yield from self._collectives_of(inner, part, times)

    def _moved(self, computation: Computation, instruction: Instruction) -> int:
        kind = instruction.kind
        if kind in FREE or kind.endswith("-done"):
            return 0
        buffers = instruction.buffers
        if kind == "copy-start":
            return sum(b.size for b in buffers[:2] if b.main)
        if kind == "slice-start":
            return buffers[1].size * (buffers[0].main + buffers[1].main)
        operands = [computation.instructions[o] for o in instruction.operands]
        if kind == "fusion":
            inner = self._computations[instruction.called("calls")]
            read = (
                self._read(inner.name, position, whole.buffers[0].size)
                for position, whole in enumerate(operands)
                if len(whole.buffers) == 1 and whole.buffers[0].main
            )
            written = zip(self._written(inner.name), buffers, strict=False)
            return sum(read) + sum(size for size, buffer in written if buffer.main)
        if kind in SLICES:
            return 2 * sum(b.size for b in buffers if b.main)
        if kind == "dynamic-update-slice":
            return 2 * operands[1].buffers[0].size * buffers[0].main
        sources = {o.name: o for o in operands}.values()
        read = (b.size for o in sources if len(o.buffers) == 1 for b in o.buffers if b.main)
        return sum(read) + sum(b.size for b in buffers if b.main)

    @functools.cache  # noqa: B019
    def _read(self, name: str, position: int, size: int) -> int:
        """Bytes that a fusion reads of its operand at this position, at most all of them."""
        computation = self._computations[name]
        parameter = next(
            i.name
            for i in computation.instructions.values()
            if i.kind == "parameter" and i.rest.startswith(f"{position})")
        )
        total, waiting = 0, [parameter]
        while waiting:
            source = waiting.pop()
            for user in computation.instructions.values():
                if source not in user.operands:
                    continue
                if user.kind == "bitcast":
                    waiting.append(user.name)
                elif user.kind in SLICES and user.operands[0] == source:
                    total += sum(b.size for b in user.buffers)
                elif user.kind == "fusion":
                    for inner, operand in enumerate(user.operands):
                        if operand == source:
                            total += self._read(user.called("calls"), inner, size)
                elif user.kind != "dynamic-update-slice" or user.operands[0] != source:
                    return size
        return min(total, size)

    def _written(self, name: str) -> list[int]:
        """Bytes that a fusion writes of each of its results."""
        computation = self._computations[name]
        root = computation.instructions[computation.root]
        results = [root]
        if root.kind == "tuple":
            results = [computation.instructions[o] for o in root.operands]
        sizes = []
        for result in results:
            while result.kind == "bitcast":
                result = computation.instructions[result.operands[0]]
            if result.kind == "dynamic-update-slice":
                result = computation.instructions[result.operands[1]]
            if result.kind == "fusion":
                sizes += self._written(result.called("calls"))
            else:
                sizes += [b.size for b in result.buffers]
        return sizes


def first_group(attributes: str) -> tuple[int, ...]:
    """The first group of partitions of a collective; empty for all, or if it names none.

    Groups are written as lists, `{{0,1},{2,3}}`; as a reshaped and transposed count,
    `[2,2]<=[4]` or `[2,2]<=[2,2]T(1,0)`; or as axes of a mesh, whose devices are
    counted in the same way.
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(int(i) for i in listed[1].split(","))
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if counted:
        size = _numbers(counted[1])[-1]
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
    sizes = _numbers(shape)
    order = _numbers(order) if order else range(len(sizes))
    stride = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    ids = [0]
    for axis in order:
        ids = [at + stride[axis] * i for at in ids for i in range(sizes[axis])]
    return ids


def _numbers(text: str) -> list[int]:
    return [int(i) for i in text.split(",")]


def _computations(text: str) -> Iterator[Computation]:
    name, instructions, root = "", {}, ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            name, instructions, root = header[2], {}, ""
        elif line.startswith("}"):
            yield Computation(name, instructions, root)
        elif match := INSTRUCTION.match(line):
            instruction = _instruction(match[2], line[match.end() :])
            instructions[instruction.name] = instruction
            if match[1]:
                root = instruction.name


def _instruction(name: str, text: str) -> Instruction:
    """`type kind(operands), attributes`."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    kind, _, rest = text[end:].strip().partition("(")
    close = _closing("(" + rest, 0) - 1
    operands = (
        () if kind in ("parameter", "constant") else re.findall(r"%([^\s,()]+)", rest[:close])
    )
    buffers = tuple(_buffer(*shape) for shape in SHAPE.findall(text[:end]))
    return Instruction(name, kind, buffers, tuple(operands), rest)


def _closing(text: str, start: int) -> int:
    """The position of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return start + match.start()
    return len(text)


def _buffer(kind: str, shape: str, layout: str) -> Buffer:
    bits = BITS.get(kind) or (0 if kind in BITS else int(re.search(r"\d+", kind)[0]))
    size = math.prod(_numbers(shape)) if shape else 1
    return Buffer((size * bits + 7) // 8, not re.search(r"S\(\d+\)", layout))
