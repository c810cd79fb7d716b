"""An ONNX graph as it is built: nodes, constants, and arrays whose broadcast is put off."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

OPSET = 18  # the first where all reductions take their axes as an input
IR_VERSION = 9  # of the same year: readers refuse files that are newer than themselves


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the function, and the tensor that holds it.

    The tensor has size 1 along some of the array's axes, on which the array repeats it. Most
    operations of ONNX broadcast such axes themselves; `Graph.whole` does it for others.
    """

    tensor: str
    held: tuple[Any, ...]  # shape of the tensor
    shape: tuple[Any, ...]  # of the array
    dtype: np.dtype


class Graph:
    """Nodes in their order; every method that returns a name adds what computes that tensor."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple, str] = {}
        self._sizes: dict[str, str] = {}
        self._count = 0

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns that tensor's name."""
        self._count += 1
        name = f"{operation.lower()}_{self._count}"
        self.nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return self._constants[key]

    def name_size(self, symbol: str, tensor: str, axis: int) -> None:
        """Says which axis of which input has the size that a symbol in shapes stands for."""
        self._sizes[symbol] = self.add("Shape", tensor, start=axis, end=axis + 1)

    def size(self, size: Any) -> str:
        """A size as an int64 tensor [1]; JAX writes symbolic ones as `batch` or `4*batch + 1`."""
        return self._evaluate(ast.parse(str(size), mode="eval").body)

    def _evaluate(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return self.constant([node.value])
        if isinstance(node, ast.Name):
            return self._sizes[node.id]
        operation = {ast.Mult: "Mul", ast.Add: "Add", ast.Sub: "Sub"}[type(node.op)]
        return self.add(operation, self._evaluate(node.left), self._evaluate(node.right))

    def sizes(self, shape: Sequence[Any]) -> str:
        """A shape as an int64 tensor."""
        if all(isinstance(size, int) for size in shape):
            return self.constant(shape)
        return self.add("Concat", *map(self.size, shape), axis=0)

    def whole(self, value: Value) -> str:
        """The tensor of a value in its full shape."""
        if value.held == value.shape:
            return value.tensor
        return self.add("Expand", value.tensor, self.sizes(value.shape))

    def reshape(self, tensor: str, shape: Sequence[Any]) -> str:
        """A tensor in another shape; where one size is symbolic, ONNX finds it out."""
        symbolic = [size for size in shape if not isinstance(size, int)]
        if len(symbolic) == 1:
            shape = [size if isinstance(size, int) else -1 for size in shape]
        return self.add("Reshape", tensor, self.sizes(shape))

    def transpose(self, tensor: str, permutation: Sequence[int]) -> str:
        """A tensor with its axes in another order."""
        if list(permutation) == list(range(len(permutation))):
            return tensor
        return self.add("Transpose", tensor, perm=[int(axis) for axis in permutation])


def tensor_type(dtype: Any) -> int:
    """ONNX's number of an array's type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
