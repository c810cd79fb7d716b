"""Matrices as int8 with a scale for each output channel, for models that are only used.

A matrix `W` is stored as `round(W / s)` with `s = max |W| / 127` of each column (of the embedding,
of each token's row), so that no value is off by more than `s / 2`. All else stays as it is: biases,
norms, positions and queries are small, and sensitive.

The matrices stay int8 in memory, and each compiled function makes floats of them as it needs them.
So all functions of a model are as for floats; decoding makes them once, not for every token.
"""

import re
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float

MATRICES = r".*/kernel|.*/lm_head|decoder/embedding|(image|text)_projection"
BY_ROW = "decoder/embedding"  # its rows are looked up; they, and not its columns, are outputs
KEY = "quantized"  # of the metadata of a checkpoint with such matrices
VALUES, SCALE = "int8", "scale"  # what a matrix becomes in the tree of parameters


def is_matrix(name: str) -> bool:
    """Whether the parameter of this name, such as `decoder/lm_head`, is stored as int8."""
    return re.fullmatch(MATRICES, name) is not None


def quantize(params: Any) -> Any:
    """The parameters with each matrix as its int8 values and their scale.

    Args:
      params: nested dictionaries of float32 arrays on the host, stacked or not.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    quantized = {n: _quantized(n, np.asarray(x)) if is_matrix(n) else x for n, x in flat.items()}
    return traverse_util.unflatten_dict(quantized, sep="/")


def _quantized(name: str, matrix: Float[np.ndarray, "*stack rows columns"]) -> dict[str, Any]:
    axis = -1 if name == BY_ROW else -2
    scale = np.max(np.abs(matrix), axis=axis, keepdims=True) / np.float32(127)
    values = np.rint(matrix / np.where(scale == 0, 1, scale))
    return {VALUES: values.astype(np.int8), SCALE: scale.astype(np.float32)}


def is_quantized(leaf: Any) -> bool:
    """Whether a node of a tree of parameters is a matrix as int8."""
    return isinstance(leaf, dict) and leaf.keys() == {VALUES, SCALE}


def dequantized(params: Any) -> Any:
    """The parameters with floats in place of int8; the same tree if there are none."""

    def floats(leaf: Any) -> Any:
        return leaf[VALUES].astype(np.float32) * leaf[SCALE] if is_quantized(leaf) else leaf

    return jax.tree.map(floats, params, is_leaf=is_quantized)
