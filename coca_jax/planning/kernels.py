"""The kernels of a compiled program: part of the model, kind, bytes and FLOPs of each."""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from coca_jax.planning.collectives import Collective, collectives_of
from coca_jax.planning.hlo import Computation, Instruction, Program
from coca_jax.planning.model_parts import model_part
from coca_jax.planning.traffic import Traffic, cost_estimate

# Instructions that only place elements; a kernel of nothing else is a copy.
PLACING = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy",
    "copy-start",
    "slice-start",
    "transpose",
    "reshape",
    "slice",
    "dynamic-slice",
    "dynamic-update-slice",
    "concatenate",
    "pad",
    "broadcast",
    "iota",
    "fusion",
    "fusion-start",
}
ASYNCHRONOUS = re.compile(r"-start$|^send$")
OWN_KIND = ("sort", "scatter", "gather")
ATTENTION = re.compile(r"fmha|_mha_|splash|flash|dot_product_attention")


class Kernel(NamedTuple):
    """One kernel, and how often a step runs it; or a place where the step waits for one."""

    part: str  # of the model, such as "image encoder / layer norm / backward"
    kind: str  # matmul, attention, collective, copy, fill, reduction, elementwise, ...
    times: int
    bytes: int  # of HBM, of one run
    flops: int  # of matmuls and attention, of one run
    collectives: tuple[Collective, ...] = ()
    starts: str = ""  # name of the asynchronous instruction that starts here
    waits: str = ""  # name of the asynchronous instruction that must have ended here


def kernels(program: Program) -> Iterator[Kernel]:
    """The kernels that a step runs, in the program's order, without those that do nothing.

    Args:
      program: a compiled train step.
    """
    traffic = Traffic(program)
    for computation, instruction, times in program.runs():
        if instruction.kind.endswith("-done"):
            yield Kernel("", "wait", times, 0, 0, waits=instruction.operands[0])
            continue
        size = traffic.moved(computation, instruction)
        matmuls = flops(program, computation, instruction)
        passed = tuple(collectives_of(program, computation, instruction, 1))
        if size or matmuls or passed:
            yield Kernel(
                _part(program, computation, instruction),
                "collective" if passed else _kind(program, instruction),
                times,
                size,
                matmuls,
                passed,
                starts=instruction.name if ASYNCHRONOUS.search(instruction.kind) else "",
            )


def flops(program: Program, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of the matmuls of one run of an instruction, those inside of fusions included."""
    kind = instruction.kind
    if kind in ("fusion", "fusion-start"):
        inner = program.computations[instruction.called("calls")]
        return sum(flops(program, inner, part) for part in inner.instructions.values())
    if kind not in ("dot", "convolution", "custom-call"):
        return 0
    shapes = [o.buffers[0].shape for o in computation.operands(instruction) if o.buffers]
    if kind == "dot":
        contracted = instruction.numbers("lhs_contracting_dims")
        return _matmul(instruction, shapes[0], contracted)
    if kind == "convolution":
        return _convolution(instruction, *shapes[:2])
    return _custom_call(instruction, shapes)


def _custom_call(call: Instruction, shapes: list[tuple[int, ...]]) -> int:
    """FLOPs of a library's kernel, from its backend configuration, or of a Pallas kernel."""
    target = call.quoted("custom_call_target")
    if target.startswith("__cublas"):
        return _matmul(call, shapes[0], _dimensions(call, "lhs_contracting_dimensions"))
    if target.startswith("__cudnn$fmha"):
        # Two matmuls forward; backward the logits again, and two matmuls for each of these two.
        matmuls = 5 if target.endswith("Backward") else 2
        logits = math.prod(_dimensions(call, "dimensions"))
        causal = re.search(r'"mask_type":\s*"(PADDING_)?CAUSAL"', call.rest)
        return matmuls * 2 * logits * shapes[0][-1] // (2 if causal else 1)
    return cost_estimate(call).get("flops", 0)


def _dimensions(call: Instruction, name: str) -> tuple[int, ...]:
    """A list of numbers, written as texts, in a call's backend configuration."""
    match = re.search(rf'"{name}":\s*(\[[^\]]*\])', call.rest)
    return tuple(map(int, json.loads(match[1]))) if match else ()


def _matmul(instruction: Instruction, lhs: tuple[int, ...], contracted: tuple[int, ...]) -> int:
    return 2 * math.prod(instruction.buffers[0].shape) * math.prod(lhs[axis] for axis in contracted)


def _convolution(instruction: Instruction, lhs: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """FLOPs of a convolution, which is what TPUs make of a matmul; padding does not count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    inputs, weights, outputs = labels.groups()
    out, window = instruction.buffers[0].shape, _window(instruction.rest)
    count = 2 * kernel[weights.index("i")] * out[outputs.index("b")] * out[outputs.index("f")]
    for axis, size in enumerate(window["size"]):
        lengths = lhs[inputs.index(str(axis))], size, out[outputs.index(str(axis))]
        steps = (window[name][axis] for name in ("stride", "pad", "lhs_dilate", "rhs_dilate"))
        count *= _overlap(*lengths, *steps)
    return count


def _window(attributes: str) -> dict[str, list[int]]:
    """The window of a convolution, a number for each axis; of padding, what is in front."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    entries = (entry.split("=") for entry in (match[1] if match else "").split())
    given = {name: [int(n.split("_")[0]) for n in text.split("x")] for name, text in entries}
    ones = [1] * len(given.get("size", ()))
    defaults = {"size": [], "stride": ones, "lhs_dilate": ones, "rhs_dilate": ones}
    return defaults | {"pad": [0] * len(ones)} | given


@functools.cache  # layers have the same shapes
def _overlap(
    length: int, size: int, results: int, stride: int, pad: int, dilate: int, window_dilate: int
) -> int:
    """Pairs of a result and a place of its window that is not padding, along one axis."""
    reach = (length - 1) * dilate + 1
    places = (
        result * stride - pad + at * window_dilate
        for result in range(results)
        for at in range(size)
    )
    return sum(0 <= place < reach and place % dilate == 0 for place in places)


def _part(program: Program, computation: Computation, instruction: Instruction) -> str:
    """The part of the model that an instruction is of.

    The compiler names no part for copies and some fusions: that of most instructions inside counts,
    or else that of an operand, or of what reads the result. It marks what it computes again to save
    memory by `.remat`.
    """
    sources = (
        lambda: [instruction],
        lambda: _inside(program, instruction),
        lambda: computation.operands(instruction),
        lambda: computation.readers(instruction),
    )
    part = "the rest"
    for source in sources:
        names = [i.quoted("op_name") for i in source()]
        if parts := Counter(model_part(name) for name in names if "/" in name):
            part = parts.most_common(1)[0][0]
            break
    return f"{part}, again" if ".remat" in instruction.name else part


def _kind(program: Program, instruction: Instruction) -> str:
    if instruction.kind == "custom-call":
        target = instruction.quoted("custom_call_target")
        if ATTENTION.search(f"{target} {instruction.quoted('op_name')} {instruction.name}"):
            return "attention"
        return "matmul" if target.startswith("__cublas") else "custom call"
    inside = [*_inside(program, instruction)]
    kinds = {part.kind for part in inside}
    if kinds & {"dot", "convolution"}:
        return "matmul"
    for kind in OWN_KIND:
        if kind in kinds:
            return kind
    if "reduce" in kinds or "reduce-window" in kinds:
        return "reduction"
    # Places are computed by scalars; they do not make a copy anything else.
    if any(i.kind not in PLACING and any(b.shape for b in i.buffers) for i in inside):
        return "elementwise"
    if all(i.buffers[0].shape == () for i in inside if i.kind == "parameter") and len(inside) > 1:
        return "fill"
    return "copy"


def _inside(program: Program, instruction: Instruction) -> Iterator[Instruction]:
    """The instructions of a fusion, or an instruction that is none."""
    yield instruction
    if instruction.kind in ("fusion", "fusion-start"):
        for part in program.computations[instruction.called("calls")].instructions.values():
            yield from _inside(program, part)
