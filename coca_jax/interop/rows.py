"""Tables of tensors: which parameters of ours a tensor of another project's is, row by row.

A table is read in both directions, and nothing is computed on the way but transpositions.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

LAYER = "{}"  # in names: the layer's number; in paths of ours, layers are stacked


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs and the parameters of ours that it consists of, one below another.

    The forms are same; matrix: out and in are exchanged; patches: a convolution's kernel; rows: a
    table with leading axes of one; vector: any shape with as many numbers.
    """

    theirs: str
    ours: tuple[str, ...]
    form: str = "same"
    layers: int = 0  # 0: not in a stack

    @property
    def names(self) -> list[str]:
        """The tensors: one, or one for each layer."""
        return [self.theirs.format(layer) for layer in range(self.layers)] or [self.theirs]

    def pieces(self, tensor: Shaped[np.ndarray, "..."]) -> list[Shaped[np.ndarray, "..."]]:
        """The parameters of ours in a tensor, of one layer."""
        count = len(self.ours)
        parts = np.split(tensor, count) if count > 1 else [tensor]
        return [_to_ours(part, self.form) for part in parts]


@dataclasses.dataclass(frozen=True)
class Layer:
    """Names of the tensors of a pre-LayerNorm layer, each without `.weight` or `.bias`."""

    norms: tuple[str, str]  # before attention and before the MLP
    projected: tuple[tuple[str, str], ...]  # weight and bias: of query, key and value, or of all
    out: str
    mlp: tuple[str, str]  # up and down


OPEN_CLIP = Layer(
    ("ln_1", "ln_2"),
    (("attn.in_proj_weight", "attn.in_proj_bias"),),
    "attn.out_proj",
    ("mlp.c_fc", "mlp.c_proj"),
)


def block(
    theirs: str, ours: str, attention: str, mlp: str, layers: int, names: Layer = OPEN_CLIP
) -> Iterator[Row]:
    """The rows of a stack of pre-LayerNorm layers, each of an attention and an MLP.

    Args:
      theirs: the stack's name.
      ours: the path of our stack.
      attention: the attention's name in a layer of ours.
      mlp: the MLP's.
      layers: how many there are.
      names: of a layer of theirs.
    """
    theirs = f"{theirs}.{LAYER}"
    yield from norm(f"{theirs}.{names.norms[0]}", f"{ours}/{attention}_norm", layers)
    paths = [f"{ours}/{attention}/{name}" for name in ("query", "key", "value")]
    groups = [paths] if len(names.projected) == 1 else [[path] for path in paths]
    for (weight, bias), group in zip(names.projected, groups, strict=True):
        kernels = tuple(f"{path}/kernel" for path in group)
        yield Row(f"{theirs}.{weight}", kernels, "matrix", layers)
        yield Row(f"{theirs}.{bias}", tuple(f"{path}/bias" for path in group), layers=layers)
    yield from linear(f"{theirs}.{names.out}", f"{ours}/{attention}/out", layers)
    yield from norm(f"{theirs}.{names.norms[1]}", f"{ours}/{mlp}_norm", layers)
    yield from linear(f"{theirs}.{names.mlp[0]}", f"{ours}/{mlp}/up", layers)
    yield from linear(f"{theirs}.{names.mlp[1]}", f"{ours}/{mlp}/down", layers)


def linear(theirs: str, ours: str, layers: int = 0) -> Iterator[Row]:
    """A matrix and its bias."""
    yield Row(f"{theirs}.weight", (f"{ours}/kernel",), "matrix", layers)
    yield Row(f"{theirs}.bias", (f"{ours}/bias",), layers=layers)


def norm(theirs: str, ours: str, layers: int = 0) -> Iterator[Row]:
    """The scale and bias of a LayerNorm."""
    yield Row(f"{theirs}.weight", (f"{ours}/scale",), layers=layers)
    yield Row(f"{theirs}.bias", (f"{ours}/bias",), layers=layers)


def to_ours(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]], rows: Iterable[Row]
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The parameters of ours by path; layers are stacked."""
    flat: dict[str, Any] = {}
    for row in rows:
        pieces = [row.pieces(tensors[name]) for name in row.names]
        for path, parts in zip(row.ours, zip(*pieces, strict=True), strict=True):
            flat[path] = np.stack(parts) if row.layers else parts[0]
    return flat


def to_theirs(
    flat: Mapping[str, Any], rows: Iterable[Row], patch: int
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The tensors of theirs by name.

    Args:
      flat: our parameters by path.
      rows: the table.
      patch: height and width of a patch in pixels.
    """
    result = {}
    for row in rows:
        for layer, name in enumerate(row.names):
            ours = [np.asarray(flat[path]) for path in row.ours]
            ours = [value[layer] if row.layers else value for value in ours]
            pieces = [_to_theirs(value, row.form, patch) for value in ours]
            result[name] = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return result


def their_shape(row: Row, ours: tuple[int, ...], patch: int) -> tuple[int, ...]:
    """The shape of a row's tensors.

    Args:
      row: of a table.
      ours: the shape of its first parameter of ours, of all layers.
      patch: height and width of a patch in pixels.
    """
    # A view of one number has the shape, and takes no memory.
    number = np.broadcast_to(np.float32(0), ours[1 if row.layers else 0 :])
    part = _to_theirs(number, row.form, patch).shape
    return (part[0] * len(row.ours), *part[1:]) if part else ()


def _to_ours(tensor: np.ndarray, form: str) -> np.ndarray:
    if form == "matrix":
        return tensor.T
    if form == "patches":  # [out, channel, row, column]
        return tensor.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
    if form == "rows":
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.reshape(-1) if form == "vector" else tensor


def _to_theirs(value: np.ndarray, form: str, patch: int) -> np.ndarray:
    if form == "matrix":
        return value.T
    if form == "patches":
        return value.reshape(patch, patch, -1, value.shape[-1]).transpose(3, 2, 0, 1)
    return value
