"""Bytes that the instructions of a compiled program read from and write to a device's memory."""

import functools
import json
import re

from coca_jax.planning.hlo import Computation, Instruction, Program

# Instructions that move no bytes, or whose bytes are counted elsewhere.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "while",
    "conditional",
    "call",
    "call-start",
    "async-start",
    "async-update",
}
SLICES = {"dynamic-slice", "slice", "gather"}
SAME_PLACES = {"bitcast", "convert", "copy", "reshape"}  # read only what is read of their results
COST = re.compile(r'"cost_estimate":(\{[^{}]*\})')


def hbm_bytes(program: Program) -> int:
    """Bytes that a step reads from and writes to HBM; those that stay in caches do not count."""
    traffic = Traffic(program)
    return sum(times * traffic.moved(c, i) for c, i, times in program.runs())


def cost_estimate(call: Instruction) -> dict[str, int]:
    """The cost that a Pallas kernel states: `flops`, `bytes_accessed`; empty if it states none."""
    match = COST.search(call.rest)
    return {k: int(v) for k, v in json.loads(match[1]).items()} if match else {}


class Traffic:
    """Counts the bytes of a program's instructions."""

    def __init__(self, program: Program):
        """Counts in this program."""
        self._computations = program.computations
        self._read = functools.cache(self._read)

    def moved(self, computation: Computation, instruction: Instruction) -> int:
        """Bytes that one run of an instruction of a computation reads and writes."""
        kind, buffers = instruction.kind, computation.results(instruction)
        if kind in FREE or kind.endswith("-done"):
            return 0
        if kind == "copy-start":
            return sum(b.size for b in instruction.buffers[:2] if b.main)
        operands = computation.operands(instruction)
        if kind == "slice-start":
            return buffers[0].size * (operands[0].buffers[0].main + buffers[0].main)
        if kind == "custom-call":
            return self._called(operands, instruction)
        if kind in ("fusion", "fusion-start"):
            inner = instruction.called("calls")
            read = (
                self._read(inner, position, whole.buffers[0].size)
                for position, whole in enumerate(operands)
                if len(whole.buffers) == 1 and whole.buffers[0].main
            )
            written = zip(self._written(inner), buffers, strict=False)
            return sum(read) + sum(size for size, buffer in written if buffer.main)
        if kind in SLICES:
            return 2 * sum(b.size for b in buffers if b.main)
        if kind == "dynamic-update-slice":
            return 2 * operands[1].buffers[0].size * buffers[0].main
        return _whole(operands) + sum(b.size for b in buffers if b.main)

    def _called(self, operands: list[Instruction], call: Instruction) -> int:
        """Bytes of a custom call: what it states, or all that goes in and comes out.

        A call without operands, such as one that allocates a buffer, computes nothing. cuBLAS's
        second result is its workspace, and so is cuDNN's last.
        """
        if stated := cost_estimate(call).get("bytes_accessed"):
            return stated
        target = call.quoted("custom_call_target")
        results = call.buffers
        if target.startswith("__cublas"):
            results = results[:1]
        elif target.startswith("__cudnn$"):
            results = results[:-1]
        return _whole(operands) + sum(b.size for b in results if b.main) * bool(operands)

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
            if source == computation.root:
                return size
            for user in computation.instructions.values():
                if source not in user.operands:
                    continue
                if user.kind in SAME_PLACES:
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
        results = computation.operands(root) if root.kind == "tuple" else [root]
        sizes = []
        for result in results:
            while result.kind == "bitcast":
                result = computation.operands(result)[0]
            if result.kind == "dynamic-update-slice":
                result = computation.operands(result)[1]
            if result.kind == "fusion":
                sizes += self._written(result.called("calls"))
            else:
                sizes += [b.size for b in result.buffers]
        return sizes


def _whole(operands: list[Instruction]) -> int:
    """Bytes of the arrays that are read, each once."""
    sources = {o.name: o for o in operands}.values()
    return sum(b.size for o in sources if len(o.buffers) == 1 for b in o.buffers if b.main)
