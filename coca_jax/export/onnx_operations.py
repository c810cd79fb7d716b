"""JAX's operations in terms of ONNX's: a function for each that a model's inference uses.

Each is called with the graph, the operation's parameters, its inputs, and the shape and type of its
first output; it returns the outputs' values.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coca_jax.export.onnx_graph import Graph, Value, tensor_type

Rule = Callable[[Graph, dict[str, Any], Sequence[Value], Any], list[Value]]
RULES: dict[str, Rule] = {}


class Unsupported(Exception):
    """An operation, or a form of it, that has no rule."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """A decorator: a function becomes the rule of these operations of JAX."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def _value(tensor: str, output: Any, held: Sequence[Any] | None = None) -> list[Value]:
    """A value of the output's shape and type; `held`: the tensor's own shape, if another."""
    held = output.shape if held is None else held
    return [Value(tensor, tuple(held), tuple(output.shape), np.dtype(output.dtype))]


def _broadcast(inputs: Sequence[Value], output: Any) -> tuple[Any, ...]:
    """The shape of ONNX's result for inputs of these shapes."""
    rank = len(output.shape)
    padded = [(1,) * (rank - len(value.held)) + value.held for value in inputs]
    return tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*padded, strict=True))


ELEMENTWISE = {
    "add": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


def _elementwise(operation: str, graph: Graph, params, inputs, output) -> list[Value]:
    if operation in ("And", "Or", "Not") and inputs[0].dtype != bool:
        raise Unsupported(f"{operation.lower()} of bits")
    name = graph.add(operation, *(value.tensor for value in inputs))
    return _value(name, output, _broadcast(inputs, output))


for _name, _operation in ELEMENTWISE.items():
    RULES[_name] = functools.partial(_elementwise, _operation)


@rule("ne")
def _not_equal(graph, params, inputs, output):
    (equal,) = _elementwise("Equal", graph, params, inputs, output)
    return _value(graph.add("Not", equal.tensor), output, equal.held)


@rule("rsqrt")
def _rsqrt(graph, params, inputs, output):
    root = graph.add("Sqrt", inputs[0].tensor)
    return _value(graph.add("Reciprocal", root), output, inputs[0].held)


@rule("square")
def _square(graph, params, inputs, output):
    return _elementwise("Mul", graph, params, [*inputs, *inputs], output)


@rule("integer_pow")
def _integer_pow(graph, params, inputs, output):
    exponent = graph.constant(params["y"], output.dtype)
    return _value(graph.add("Pow", inputs[0].tensor, exponent), output, inputs[0].held)


@rule("select_n")
def _select(graph, params, inputs, output):
    if len(inputs) != 3 or inputs[0].dtype != bool:
        raise Unsupported("select_n among more than two arrays")
    which, if_false, if_true = (value.tensor for value in inputs)
    if output.dtype == bool:  # which onnxruntime's Where does not take
        chosen = graph.add("And", which, if_true)
        other = graph.add("And", graph.add("Not", which), if_false)
        name = graph.add("Or", chosen, other)
    else:
        name = graph.add("Where", which, if_true, if_false)
    return _value(name, output, _broadcast(inputs, output))


@rule("convert_element_type")
def _convert(graph, params, inputs, output):
    name = graph.add("Cast", inputs[0].tensor, to=tensor_type(output.dtype))
    return _value(name, output, inputs[0].held)


@rule("stop_gradient", "copy", "copy_p", "optimization_barrier", "sharding_constraint")
def _same(graph, params, inputs, output):
    return list(inputs)


@rule("broadcast_in_dim")
def _broadcast_in_dim(graph, params, inputs, output):
    value, held = inputs[0], [1] * len(output.shape)
    for axis, size in zip(params["broadcast_dimensions"], value.held, strict=True):
        held[axis] = size
    new = [i for i in range(len(held)) if i not in params["broadcast_dimensions"]]
    tensor = graph.add("Unsqueeze", value.tensor, graph.constant(new)) if new else value.tensor
    return _value(tensor, output, held)


@rule("reshape")
def _reshape(graph, params, inputs, output):
    return _value(graph.reshape(graph.whole(inputs[0]), output.shape), output)


@rule("squeeze")
def _squeeze(graph, params, inputs, output):
    value, axes = inputs[0], [int(axis) for axis in params["dimensions"]]
    held = [size for axis, size in enumerate(value.held) if axis not in axes]
    return _value(graph.add("Squeeze", value.tensor, graph.constant(axes)), output, held)


@rule("transpose")
def _transpose(graph, params, inputs, output):
    value, permutation = inputs[0], params["permutation"]
    held = [value.held[axis] for axis in permutation]
    return _value(graph.transpose(value.tensor, permutation), output, held)


@rule("concatenate")
def _concatenate(graph, params, inputs, output):
    return _value(graph.add("Concat", *map(graph.whole, inputs), axis=params["dimension"]), output)


@rule("stack")
def _stack(graph, params, inputs, output):
    axis = graph.constant([params["axis"]])
    each = [graph.add("Unsqueeze", graph.whole(value), axis) for value in inputs]
    return _value(graph.add("Concat", *each, axis=params["axis"]), output)


@rule("unstack")
def _unstack(graph, params, inputs, output):
    tensor, axis = graph.whole(inputs[0]), params["axis"]
    return [
        _value(graph.add("Gather", tensor, graph.constant(i), axis=axis), output)[0]
        for i in range(inputs[0].shape[axis])
    ]


@rule("pad")
def _pad(graph, params, inputs, output):
    value, (low, high, between) = inputs[0], zip(*params["padding_config"], strict=True)
    if any(between) or min(*low, *high) < 0:
        raise Unsupported("pad between elements, or with a negative number")
    name = graph.add("Pad", graph.whole(value), graph.constant([*low, *high]), inputs[1].tensor)
    return _value(name, output)


@rule("iota")
def _iota(graph, params, inputs, output):
    axis = params["dimension"]
    if not isinstance(output.shape[axis], int):
        raise Unsupported("iota of the batch's size")
    held = [1] * len(output.shape)
    held[axis] = output.shape[axis]
    numbers = np.arange(output.shape[axis]).reshape(held)
    return _value(graph.constant(numbers, output.dtype), output, held)


@rule("dim_as_value")
def _dim_as_value(graph, params, inputs, output):
    size = graph.add("Squeeze", graph.size(params["dim"]))
    return _value(graph.add("Cast", size, to=tensor_type(output.dtype)), output)


@rule("slice")
def _slice(graph, params, inputs, output):
    value, strides = inputs[0], params["strides"] or [1] * len(output.shape)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    cut = [
        (axis, start, limit, stride)
        for axis, (start, limit, stride) in enumerate(bounds)
        if value.shape[axis] != output.shape[axis]
    ]
    if not cut:
        return [value]
    axes, starts, limits, strides = (graph.constant(row) for row in zip(*cut, strict=True))
    return _value(graph.add("Slice", graph.whole(value), starts, limits, axes, strides), output)


def _start(graph: Graph, start: Value, most: int) -> str:
    """An index as an int64 tensor [1], kept within bounds as in JAX."""
    index = graph.add("Cast", start.tensor, to=tensor_type(np.int64))
    clipped = graph.add("Clip", index, graph.constant(0), graph.constant(most))
    return graph.add("Unsqueeze", clipped, graph.constant([0]))


@rule("dynamic_slice")
def _dynamic_slice(graph, params, inputs, output):
    value, *starts = inputs
    tensor, sizes = graph.whole(value), params["slice_sizes"]
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size != value.shape[axis]:
            begin = _start(graph, start, value.shape[axis] - size)
            end = graph.add("Add", begin, graph.constant([size]))
            tensor = graph.add("Slice", tensor, begin, end, graph.constant([axis]))
    return _value(tensor, output)


@rule("dynamic_update_slice")
def _dynamic_update_slice(graph, params, inputs, output):
    value, update, *starts = inputs
    axes = [i for i, size in enumerate(update.shape) if size != value.shape[i]]
    if len(axes) != 1 or update.shape[axes[0]] != 1:
        raise Unsupported("dynamic_update_slice of more than one row")
    (axis,) = axes
    size, held = value.shape[axis], [1] * len(value.shape)
    held[axis] = size
    start = _start(graph, starts[axis], size - 1)
    is_new = graph.add("Equal", graph.constant(np.arange(size).reshape(held)), start)
    return _value(graph.add("Where", is_new, update.tensor, graph.whole(value)), output)


@rule("gather")
def _gather(graph, params, inputs, output):
    value, indices = inputs
    numbers, sizes = params["dimension_numbers"], list(params["slice_sizes"])
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        raise Unsupported("gather along more than one axis")
    (axis,) = numbers.start_index_map
    first, last = axis, axis + len(indices.shape) - 1
    offsets = [i for i in range(len(output.shape)) if not first <= i < last]
    rows = [1 if i == axis else size for i, size in enumerate(value.shape)]
    is_take = numbers.collapsed_slice_dims == (axis,) and list(numbers.offset_dims) == offsets
    if not is_take or sizes != rows:
        raise Unsupported("gather of parts of rows")
    index = graph.add("Squeeze", graph.whole(indices), graph.constant([-1]))
    return _value(graph.add("Gather", graph.whole(value), index, axis=axis), output)


def _reduction(operation: str, graph: Graph, params, inputs, output) -> list[Value]:
    axes = graph.constant([int(axis) for axis in params["axes"]])
    return _value(graph.add(operation, graph.whole(inputs[0]), axes, keepdims=0), output)


for _name, _operation in (("sum", "ReduceSum"), ("max", "ReduceMax"), ("min", "ReduceMin")):
    RULES[f"reduce_{_name}"] = functools.partial(_reduction, _operation)


@rule("dot_general")
def _dot_general(graph, params, inputs, output):
    """A matmul, with the axes of both sides brought into ONNX's order: batch, rows, columns."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = params["dimension_numbers"]
    lhs, rhs = inputs
    lhs_rows = _rest(lhs, lhs_sum, lhs_batch)
    rhs_rows = _rest(rhs, rhs_sum, rhs_batch)
    left = graph.transpose(graph.whole(lhs), [*lhs_batch, *lhs_rows, *lhs_sum])
    right = graph.transpose(graph.whole(rhs), [*rhs_batch, *rhs_sum, *rhs_rows])
    batch = [lhs.shape[axis] for axis in lhs_batch]
    sums = [lhs.shape[axis] for axis in lhs_sum]
    if len(lhs_sum) > 1 or (len(lhs_rows) != 1 and (batch or not lhs_rows)):
        left = graph.reshape(left, [*batch, _product(lhs, lhs_rows), math.prod(sums)])
    if len(rhs_sum) > 1 or len(rhs_rows) != 1:
        right = graph.reshape(right, [*batch, math.prod(sums), _product(rhs, rhs_rows)])
    product = graph.add("MatMul", left, right)
    shape = [*batch, *(lhs.shape[i] for i in lhs_rows), *(rhs.shape[i] for i in rhs_rows)]
    plain = len(rhs_rows) == 1 and (
        len(lhs_rows) == 1 or (lhs_rows and not batch and len(sums) == 1)
    )
    product = product if plain else graph.reshape(product, shape)
    return _value(product, output)


def _rest(value: Value, *named: Sequence[int]) -> list[int]:
    """The axes of a matmul's side that are neither summed over nor of the batch."""
    return [i for i in range(len(value.shape)) if not any(i in axes for axes in named)]


def _product(value: Value, axes: Sequence[int]) -> Any:
    return math.prod((value.shape[axis] for axis in axes), start=1)
