"""Writes files as torch.save does, without torch: a zip of a pickle and of raw storages."""

import dataclasses
import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "complex64": "ComplexFloatStorage",
    "uint8": "ByteStorage",
}


@dataclasses.dataclass(eq=False)
class Global:
    """A name that a pickle imports."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """A call in a pickle, and the operations on its result."""

    function: Global
    arguments: tuple = ()
    state: Any = None
    items: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Tensor:
    """A view of a storage."""

    storage: np.ndarray  # flat
    shape: tuple
    strides: tuple  # elements
    offset: int = 0  # elements
    location: str = "cpu"


def tensor(array: np.ndarray, **changes) -> Tensor:
    """A tensor with a storage of its own."""
    array = np.asarray(array)
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    values = Tensor(array.reshape(-1), array.shape, strides[: array.ndim])
    return dataclasses.replace(values, **changes)


def save(file, tree: Any) -> None:
    """Writes a tree of dictionaries and lists; arrays in it become tensors."""
    program = io.BytesIO()
    writer = _Writer(program, protocol=2)
    writer.dump(tree)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, storage in enumerate(writer.storages):
            archive.writestr(f"archive/data/{key}", storage.tobytes())


class _Writer(pickle._Pickler):
    """Writes names, calls and storages as the opcodes that torch's files have."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.storages: list[np.ndarray] = []

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, np.ndarray):
            obj = tensor(obj)
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save_reduce(obj.function, obj.arguments, obj.state, None, iter(obj.items.items()))
        elif isinstance(obj, Tensor):
            where = (self._storage(obj), obj.offset, tuple(obj.shape), tuple(obj.strides))
            rebuild = Global("torch._utils", "_rebuild_tensor_v2")
            self.save(Call(rebuild, (*where, False, OrderedDict())))
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None

    def save_reduce(self, func, args, state=None, listitems=None, dictitems=None, *_, **__):
        self.save(func)
        self.save(args)
        self.write(pickle.REDUCE)
        self._batch_setitems(dictitems or iter(()))
        if state is not None:
            self.save(state)
            self.write(pickle.BUILD)

    def _storage(self, view: Tensor) -> "_Storage":
        known = [id(storage) for storage in self.storages]
        if id(view.storage) not in known:
            self.storages.append(view.storage)
            known.append(id(view.storage))
        key = known.index(id(view.storage))
        kind = Global("torch", STORAGES[view.storage.dtype.name])
        return _Storage(("storage", kind, str(key), view.location, len(view.storage)))


@dataclasses.dataclass(eq=False)
class _Storage:
    pid: tuple
