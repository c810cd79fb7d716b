"""Tensors of PyTorch's files (.pt, .bin, ...), read without PyTorch and without running code.

Such a file is a zip of one pickle and of the raw bytes of its storages. A pickle is a program that
names functions and classes to call. The reader here gives it functions of its own for tensors and
dictionaries, and an inert `Unknown` for every other name, so that nothing that a file names is ever
imported, built or called.
"""

import collections
import dataclasses
import io
import operator
import os
import pickle
import zipfile
from collections.abc import Sequence
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


class Unknown(dict):
    """Placeholder for an object of an unknown class; accepts everything that a pickle does to it.

    Dictionary items are kept, because subclasses of `dict` may hold weights.
    """

    title = ""  # module and name of the unknown class

    def __new__(cls, *_, **__):
        """Takes any arguments."""
        return super().__new__(cls)

    def __init__(self, *_, **__):
        super().__init__()

    def __call__(self, *_, **__):
        """Takes any arguments."""
        return self

    def __setstate__(self, state):
        pass

    def append(self, item):
        """Forgets an item of a list."""

    def extend(self, items):
        """Forgets items of a list."""

    def add(self, item):
        """Forgets an item of a set."""

    # A pickle may use it as a key of a dictionary.
    __hash__, __eq__ = object.__hash__, object.__eq__


def _unknown(module: str, name: str) -> type[Unknown]:
    """A class made for one name of one file: what a file does to it concerns no other."""
    return type("Unknown", (Unknown,), {"title": f"{module}.{name}"})


class Archive:
    """The zip of one file, kept open.

    The storage that was read last is kept: tensors are often views of one storage, in a row.
    """

    def __init__(self, file: str | os.PathLike, copy: str | os.PathLike):
        self.file = file  # its name in messages
        self._zip = zipfile.ZipFile(copy)
        self._last = ("", b"")

    def find(self, end: str) -> str | None:
        """The member whose name has this end."""
        return next((name for name in self._zip.namelist() if name.endswith(end)), None)

    def read(self, member: str) -> bytes:
        """The bytes of a member; its checksum is compared."""
        if self._last[0] != member:
            self._last = (member, self._zip.read(member))
        return self._last[1]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file; `np.asarray` reads it."""

    archive: Archive
    member: str
    dtype: np.dtype
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """Returns the values as a new array.

        Raises:
          UserError: the bytes are damaged or incomplete.
        """
        if 0 in self.shape:
            return np.zeros(self.shape, dtype or self.dtype)
        try:
            values = self._of(np.frombuffer(self.archive.read(self.member), self.dtype))
        except Exception as error:  # whatever wrong bytes, shapes and strides run into
            cause = f"{type(error).__name__}: {error}"
            file = self.archive.file
            raise UserError(f"{file} is damaged at {self.member}: {cause}") from error
        return values if dtype is None else values.astype(dtype)

    def _of(self, data: np.ndarray) -> np.ndarray:
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min(self.offset, *self.strides, *self.shape, 0) < 0 or self.offset + reach >= len(data):
            raise ValueError("a tensor reaches out of its storage")
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides).copy()

    def __setstate__(self, state):
        raise TypeError("a tensor is not changed by its file")


def read(file: str | os.PathLike, copy: str | os.PathLike = "") -> Any:
    """Returns the saved object: dictionaries, lists, numbers, `Tensor`s, and `Unknown` for others.

    Args:
      file: the file's name.
      copy: a local file of the same bytes, which stays open; empty: `file` itself.

    Raises:
      UserError: the file is not such a zip (PyTorch before 1.6 wrote others), or is damaged.
    """
    try:
        archive = Archive(file, copy or file)
        member = archive.find("/data.pkl")
        if archive.find("/constants.pkl"):
            raise UserError(
                f"{file} is a TorchScript archive, a program with its weights: save "
                "them in PyTorch by torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
            )
        if member is None:
            raise UserError(f"{file} holds no data.pkl; is it a file of torch.save?")
        order = archive.find("/byteorder")
        if order and archive.read(order) != b"little":
            raise UserError(f"{file} was saved by a big-endian machine: save it as .safetensors")
        return _Reader(archive, member).load()
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{file} is truncated or damaged, or no file of torch.save: {error}"
        ) from error
    except Exception as error:  # whatever a damaged program may run into
        raise UserError(f"{file} is damaged: {type(error).__name__}: {error}") from error


class _Reader(pickle._Unpickler):
    """Knows storages and how tensors are put on them; all other names are `Unknown`.

    It is Python's own reader that is written in Python: the one in C takes the lengths and indices
    that a damaged program holds for granted, and asks for gigabytes of memory.

    What it hands to the program is of no use to anything else, since a program may also try to
    change what it was handed: names of types, and functions and classes made for this one reading.
    """

    def __init__(self, archive: Archive, member: str):
        super().__init__(io.BytesIO(archive.read(member)))
        self._archive, self._folder = archive, member.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return name

        def tensor(storage, offset, shape, strides, *_) -> Tensor | Unknown:
            if isinstance(storage, Unknown):
                return storage
            whole = [tuple(map(operator.index, numbers)) for numbers in (shape, strides)]
            return Tensor(
                self._archive, storage[1], DTYPES[storage[0]], operator.index(offset), *whole
            )

        classes = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("collections", "defaultdict"): lambda *_: {},
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            # Of types that have no storage of their own, such as float8.
            ("torch._utils", "_rebuild_tensor_v3"): lambda *args: args[6](),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
            ("torch._tensor", "_rebuild_from_type_v2"): lambda rebuild, _, args, *__: rebuild(
                *args
            ),
        }
        return classes.get((module, name)) or _unknown(module, name)

    def persistent_load(self, pid: Sequence[Any]) -> Any:
        kind, dtype, key, *_ = pid
        if kind == "storage" and dtype in DTYPES:
            return dtype, f"{self._folder}data/{key}"
        return dtype() if kind == "storage" else _unknown("persistent", str(kind))()
