"""Files of named tensors: .safetensors, and PyTorch's .pt and .bin."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from coca_jax.errors import UserError
from coca_jax.interop import torch_file

Tensors = Mapping[str, np.ndarray]


def read_tensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file by name.

    Of PyTorch's files, training checkpoints too: weights nested under `state_dict` are found, and a
    `module.` in front of every name (of a distributed wrapper) is taken away.

    Raises:
      UserError: there is no such file, it is damaged, or it holds no named tensors.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    if file.suffix == ".safetensors":
        return _without_wrapper(_read_safetensors(file))
    if file.suffix not in (".pt", ".pth", ".bin"):
        raise UserError(f"{file} should be named .safetensors, .pt, .pth or .bin")
    tree: Any = torch_file.read(file)
    while isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        tree = tree["state_dict"]
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds a {type(tree).__name__}, not named tensors")
    if strange := [k for k, v in tree.items() if not isinstance(v, torch_file.Tensor)]:
        raise UserError(f"{file} holds more than tensors: {', '.join(map(str, strange[:5]))}")
    return _without_wrapper({name: tensor.read() for name, tensor in tree.items()})


def write_tensors(file: pathlib.Path, tensors: Tensors, config: Mapping[str, Any]) -> None:
    """Writes a .safetensors file, whole or not at all.

    Args:
      file: its name.
      tensors: what to write.
      config: said in the file's metadata, as JSON.

    Raises:
      UserError: another kind of file is asked for, or it cannot be written.
    """
    if file.suffix != ".safetensors":
        raise UserError(f"{file} should be named .safetensors; OpenCLIP reads it, too")
    partial = file.with_name(f"{file.name}.partial")
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    try:
        save_file(contiguous, partial, metadata={"format": "pt", "config": json.dumps(config)})
    except safetensors.SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{file} cannot be written: {error}") from error
    partial.replace(file)


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, AttributeError) as error:  # or unknown types
        raise UserError(f"{file} cannot be read: {error}") from error


def _without_wrapper(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
