"""Tensors of PyTorch's files (.pt, .bin), without PyTorch and without running what they say.

Such a file is a zip of one pickle and of the raw bytes of its storages. A pickle is a program; the
reader here lets it make dictionaries, tuples and tensors, and refuses a file that names anything
else.
"""

import collections
import dataclasses
import io
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from coca_jax.errors import UserError

DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file."""

    file: pathlib.Path
    member: str
    dtype: np.dtype
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    def read(self) -> np.ndarray:
        """Its values, in an array of its own.

        Raises:
          UserError: its bytes are damaged, or are not all there.
        """
        try:
            with zipfile.ZipFile(self.file) as archive:
                return self._of(np.frombuffer(archive.read(self.member), self.dtype))
        except Exception as error:  # whatever wrong bytes, shapes and strides run into
            cause = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.file} is damaged at {self.member}: {cause}") from error

    def _of(self, data: np.ndarray) -> np.ndarray:
        if not all(self.shape):
            return np.zeros(self.shape, self.dtype)
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.strides, *self.shape, 0) < 0 or self.offset + reach >= len(data):
            raise ValueError("a tensor reaches out of its storage")
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides).copy()


def read(file: pathlib.Path) -> Any:
    """What was saved: dictionaries, lists and numbers, with a `Tensor` for each tensor.

    Raises:
      UserError: the file is no such zip (PyTorch before 1.6 wrote others), is damaged, or names
        anything that is no part of a tensor.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            member = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if member is None:
                raise UserError(f"{file} holds no data.pkl; is it a file of torch.save?")
            program = archive.read(member)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{file} is no zip, as torch.save has written since PyTorch 1.6: save it anew from "
            f"PyTorch, or as .safetensors ({error})"
        ) from error
    try:
        return _Reader(io.BytesIO(program), file, member.removesuffix("data.pkl")).load()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged program may run into
        raise UserError(f"{file} is damaged: {type(error).__name__}: {error}") from error


class _Reader(pickle.Unpickler):
    """Knows storages and how tensors are put on them; names nothing else.

    What it hands to the program is of no use to anything else, since a program may also try to
    change what it was handed: names of types, and functions made for this one reading.
    """

    def __init__(self, program: io.BytesIO, file: pathlib.Path, folder: str):
        super().__init__(program)
        self._file, self._folder = file, folder

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return name

        def tensor(storage, offset, shape, strides, *_) -> Tensor:
            dtype, member = storage
            return Tensor(self._file, member, DTYPES[dtype], offset, tuple(shape), tuple(strides))

        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if (module, name) not in known:
            raise UserError(
                f"{self._file} is refused: it names {module}.{name}, no part of a tensor"
            )
        return known[module, name]

    def persistent_load(self, pid: tuple) -> tuple[str, str]:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in DTYPES:
            raise UserError(f"{self._file} is refused: it holds a {kind} of {dtype}")
        return dtype, f"{self._folder}data/{key}"
