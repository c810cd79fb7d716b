"""Functions as ONNX files, whose weights lie in a safetensors file next to them."""

import json
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from jax.extend.core import Jaxpr, Literal
from onnx import helper

from coca_jax.errors import UserError
from coca_jax.export.functions import BATCH, Spec, Traced
from coca_jax.export.onnx_graph import IR_VERSION, OPSET, Graph, Value, tensor_type
from coca_jax.export.onnx_operations import RULES, Unsupported

# Operations that call a function, and the parameter that holds it.
CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def write_onnx(
    traced: Traced, weights: Mapping[str, Spec], path: pathlib.Path, weights_file: pathlib.Path
) -> None:
    """Writes a function.

    Args:
      traced: the function.
      weights: shape and type of those that it reads.
      path: of the file.
      weights_file: the safetensors file in the same folder, which holds them.

    Raises:
      UserError: the model has an operation without a rule.
    """
    graph = Graph()
    values = [_value(name, spec) for name, spec in (weights | traced.inputs).items()]
    graph.name_size(BATCH, *_batch_axis(traced))
    try:
        outputs = convert(graph, traced.jaxpr.jaxpr, traced.jaxpr.consts, values)
    except Unsupported as error:
        raise UserError(
            f"{traced.name}: ONNX export does not know JAX's operation {error}; "
            "--format stablehlo exports any model"
        ) from error
    for name, value in zip(traced.outputs, outputs, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.whole(value)], [name], name))
    graph.initializers += _external(weights, weights_file)
    path.write_bytes(_model(graph, traced).SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _model(graph: Graph, traced: Traced) -> onnx.ModelProto:
    """A complete graph with its inputs and outputs."""
    inputs, outputs = (
        [_info(name, spec) for name, spec in specs.items()]
        for specs in (traced.inputs, traced.outputs)
    )
    content = helper.make_graph(graph.nodes, traced.name, inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        content, opset_imports=opsets, ir_version=IR_VERSION, producer_name="coca_jax"
    )


def convert(
    graph: Graph, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    """Adds a function to a graph; returns its outputs.

    Raises:
      Unsupported: an operation has no rule.
    """
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    for variable, constant in zip(jaxpr.constvars, constants, strict=True):
        values[variable] = _constant(graph, np.asarray(constant))

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return _constant(graph, np.asarray(atom.val, atom.aval.dtype))
        return values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _outputs(graph, equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _outputs(graph: Graph, equation: Any, inputs: list[Value]) -> list[Value]:
    """The outputs of one operation."""
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        called = params[CALLS[name]]
        return convert(graph, called.jaxpr, called.consts, inputs)
    if name not in RULES:
        raise Unsupported(name)
    return RULES[name](graph, params, inputs, equation.outvars[0].aval)


def _constant(graph: Graph, array: np.ndarray) -> Value:
    return Value(graph.constant(array, array.dtype), array.shape, array.shape, array.dtype)


def _value(name: str, spec: Spec) -> Value:
    return Value(name, tuple(spec.shape), tuple(spec.shape), np.dtype(spec.dtype))


def _batch_axis(traced: Traced) -> tuple[str, int]:
    """An input that has the batch as its first axis."""
    return next((n, 0) for n, spec in traced.inputs.items() if spec.shape)


def _info(name: str, spec: Spec) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else str(size) for size in spec.shape]
    return helper.make_tensor_value_info(name, tensor_type(spec.dtype), shape)


def _external(weights: Mapping[str, Spec], path: pathlib.Path) -> list[onnx.TensorProto]:
    """References to tensors in a safetensors file: a length, a header of JSON, and the bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors = []
    for name, spec in weights.items():
        start, end = header[name]["data_offsets"]
        tensor = onnx.TensorProto(
            name=name,
            data_type=tensor_type(spec.dtype),
            dims=spec.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        place = {"location": path.name, "offset": 8 + length + start, "length": end - start}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    return tensors
