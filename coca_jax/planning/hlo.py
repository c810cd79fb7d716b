"""The text of a compiled program (HLO), parsed: its computations, and how often each part runs.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0}  # of an element; others have their number of bits
SHAPE = re.compile(r"\b(pred|token|opaque|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
HEADER = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Instructions that only run others: `call` and `async-start` do so once.
CALLS = {"call": "to_apply", "call-start": "to_apply", "async-start": "calls"}


class Buffer(NamedTuple):
    """One array of an instruction's result."""

    size: int  # bytes
    main: bool  # in the device's main memory, not in a cache, a register or the host
    shape: tuple[int, ...]


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    kind: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    rest: str  # operands and attributes

    def called(self, attribute: str) -> str:
        """The computation that an attribute names; empty if there is none."""
        match = re.search(rf"\b{attribute}=%?([^\s,}}]+)", self.rest)
        return match[1] if match else ""

    def quoted(self, attribute: str) -> str:
        """The text of an attribute such as `op_name="..."`; empty if there is none."""
        match = re.search(rf'\b{attribute}="([^"]*)"', self.rest)
        return match[1] if match else ""

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={1,2}`."""
        match = re.search(rf"\b{attribute}=\{{([\d,]+)\}}", self.rest)
        return tuple(integers(match[1])) if match else ()


class Computation(NamedTuple):
    """Instructions by name, and the one that is the result."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results an instruction reads."""
        return [self.instructions[name] for name in instruction.operands]

    def readers(self, instruction: Instruction) -> list[Instruction]:
        """The instructions that read an instruction's result, also as part of a tuple."""
        passing = {instruction.name}
        readers = []
        for user in self.instructions.values():  # in order, so that operands come first
            if passing.intersection(user.operands):
                if user.kind in ("tuple", "get-tuple-element", "bitcast"):
                    passing.add(user.name)
                else:
                    readers.append(user)
        return readers

    def results(self, instruction: Instruction) -> tuple[Buffer, ...]:
        """The buffers of an instruction's result, and of its context if it starts something.

        The result of an instruction that starts an asynchronous operation may begin with its
        operands, which are left out.
        """
        if not instruction.kind.endswith("-start"):
            return instruction.buffers
        count = sum(len(operand.buffers) for operand in self.operands(instruction))
        return instruction.buffers[count:] or instruction.buffers


class Program:
    """A compiled program, parsed from the `as_text()` of a compiled function."""

    def __init__(self, text: str):
        """Parses the text."""
        self.computations = {c.name: c for c in _computations(text)}
        self._entry = re.search(r"^ENTRY %?(\S+)", text, re.MULTILINE)[1]

    def runs(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Each instruction that is not part of a fusion, and how often a step runs it."""
        return self._runs(self._entry, 1)

    def _runs(self, name: str, times: int) -> Iterator[tuple[Computation, Instruction, int]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            if instruction.kind == "while":
                yield from self._runs(instruction.called("body"), times * self._trips(instruction))
            elif attribute := CALLS.get(instruction.kind):
                yield from self._runs(instruction.called(attribute), times)
            elif instruction.kind == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
                for branch in re.findall(r"[^%\s,]+", branches[1]) if branches else []:
                    yield from self._runs(branch, times)

    def _trips(self, loop: Instruction) -> int:
        """The number of iterations of a loop, as the compiler knows it.

        Where it does not say, a scan counts to the one integer in its condition.
        """
        if known := TRIPS.search(loop.rest):
            return int(known[1])
        condition = loop.called("condition")
        constants = [
            int(i.rest.partition(")")[0])
            for i in self.computations[condition].instructions.values()
            if i.kind == "constant" and re.match(r"\d+\)", i.rest)
        ]
        if not constants:
            raise ValueError(f"loop {condition!r} does not say how often it runs")
        return max(constants)


def integers(text: str) -> list[int]:
    """The numbers of a list such as `1,2`."""
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
    dims = tuple(integers(shape)) if shape else ()
    size = math.prod(dims)
    return Buffer((size * bits + 7) // 8, not re.search(r"S\(\d+\)", layout), dims)
