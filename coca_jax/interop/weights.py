"""Files of named tensors: .safetensors, PyTorch's .pt and .bin, and folders of their shards."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
from etils import epath
from jaxtyping import Shaped
from safetensors.numpy import save_file

from coca_jax.errors import UserError
from coca_jax.interop import torch_file
from coca_jax.interop.names import Path as Place
from coca_jax.interop.names import leaves, listed, match
from coca_jax.interop.shards import weight_files
from coca_jax.io.files import atomic
from coca_jax.io.messages import cause, counted
from coca_jax.io.paths import as_path, is_url

# The safetensors format's names of the types that NumPy reads; others keep their name there.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
COPIED = 2**24  # bytes at a time from a URL
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch before 1.6 began files with it


@runtime_checkable
class StoredTensor(Protocol):
    """A tensor that may still be in its file; `np.asarray` reads it."""

    dtype: Any
    shape: tuple[int, ...]

    def __array__(self, dtype=None, copy=None) -> np.ndarray: ...


Tensors = Mapping[str, StoredTensor]


def open_tensors(
    path: str | os.PathLike,
    expected: Collection[str],
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, StoredTensor]:
    """A model's tensors by name, and what else is among them under the names that it has there.

    Training checkpoints are looked through: the weights are found in whatever they are nested, and
    what wrappers added to their names is taken away (`names.match`). Nothing else is read.

    Args:
      path: a file; an index of shards (`*.index.json`), or a folder that holds one or the other.
      expected: the names of the model's tensors.
      report: is given a line that says where in the file the weights were, if it has more.

    Raises:
      UserError: there is no such file, it is damaged, or holds no or no unambiguous weights.
    """
    tensors = _read_places(path)
    try:
        matched = match(tensors, expected)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not matched.places:
        raise UserError(f"{path} holds no weights of the model: {_content(tensors)}")
    result = {name: tensors[place] for name, place in matched.places.items()}
    if unreadable := [f"{n} ({t.title})" for n, t in result.items() if _is_unknown(t)]:
        raise UserError(
            f"{path} holds {len(unreadable):,} of the model's tensors in forms that are not read: "
            f"{listed(unreadable)}; save them as float32, float16 or bfloat16"
        )
    surplus = {".".join(p): tensors[p] for p in matched.surplus if not _is_unknown(tensors[p])}
    if (left := len(tensors) - len(result) - len(matched.surplus)) > 0:
        report(f"{path}: read {matched.prefix or 'the weights'}; tensors left out: {left:,}")
    return result | surplus


def read_places(path: str | os.PathLike) -> dict[Place, StoredTensor]:
    """All tensors in the files of a model, by their places; nothing but headers is read.

    Args:
      path: as of `open_tensors`.

    Raises:
      UserError: there is no such file, it is damaged, or a tensor is in two of them.
    """
    return {place: v for place, v in _read_places(path).items() if not _is_unknown(v)}


def _read_places(path: str | os.PathLike) -> dict[Place, Any]:
    """The tensors by their places, and what may be one of an unknown kind."""
    files, index = weight_files(path)
    tensors: dict[Place, Any] = {}
    for file in files:
        for place, value in leaves(_tree(file)):
            if place in tensors:
                raise UserError(f"{path}: {'.'.join(place)} is in several of its files")
            if _is_tensor(value):
                tensors[place or ("",)] = value
    _require_index(path, index, tensors)
    return tensors


def write_tensors(
    file: str | os.PathLike,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    config: Mapping[str, Any],
) -> None:
    """Writes a .safetensors file, whole or not at all.

    Args:
      file: its name.
      tensors: what to write.
      config: said in the file's metadata, as JSON.

    Raises:
      UserError: another kind of file is asked for, or it cannot be written.
    """
    file = as_path(file)
    if file.suffix != ".safetensors":
        raise UserError(f"{file} should be named .safetensors; OpenCLIP reads it, too")
    contiguous = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {"format": "pt", "config": json.dumps(config)}
    try:
        with atomic(file) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(contiguous, temporary, metadata=metadata)
            temporary.chmod(mode)  # safetensors lets nobody but the owner read it
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be written: {cause(error)}") from error


class _SafeTensor:
    """A tensor that is still in a .safetensors file."""

    def __init__(self, file: epath.Path, opened: safetensors.safe_open, name: str):
        self._file, self._opened, self._name = file, opened, name
        part = opened.get_slice(name)
        self.dtype = DTYPES.get(part.get_dtype(), part.get_dtype())
        self.shape = tuple(part.get_shape())

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        try:
            values = self._opened.get_tensor(self._name)
        except (safetensors.SafetensorError, TypeError, AttributeError) as error:  # unknown types
            raise UserError(f"{self._file} cannot be read at {self._name}: {error}") from error
        return values if dtype is None else values.astype(dtype)


def _tree(file: epath.Path) -> Any:
    """The content of a file, with tensors not read yet; its first bytes tell the format."""
    try:
        with file.open("rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip or head[8:9] == b"{":
        with _local_copy(file) as copy:
            return torch_file.read(file, copy) if is_zip else _safetensors(file, copy)
    if head.startswith(LEGACY):
        raise UserError(
            f"{file} is of the form that PyTorch wrote before 1.6: save its weights anew with a "
            "newer PyTorch, or as .safetensors"
        )
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{file} is a pointer of Git LFS, not the weights: run git lfs pull")
    found = f"it begins with {head[:16]!r}" if head else "it is empty"
    raise UserError(f"{file} is neither a file of torch.save nor a .safetensors: {found}")


@contextlib.contextmanager
def _local_copy(file: epath.Path) -> Iterator[str]:
    """A file's local path; of one at a URL that of a copy, which may be opened and is then gone."""
    if not is_url(os.fspath(file)):
        yield os.fspath(file)
        return
    with tempfile.NamedTemporaryFile() as copy:
        _copy(file, epath.Path(copy.name))
        yield copy.name


def _copy(source: epath.Path, target: epath.Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        shutil.copyfileobj(read, written, COPIED)


def _safetensors(file: epath.Path, copy: str) -> dict[str, StoredTensor]:
    try:
        opened = safetensors.safe_open(copy, framework="numpy")
        return {name: _SafeTensor(file, opened, name) for name in opened.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _require_index(
    path: str | os.PathLike, index: Collection[str], tensors: Collection[tuple]
) -> None:
    """Raises a UserError if the shards lack a tensor that their index names."""
    there = {".".join(place) for place in tensors}
    if missing := [name for name in index if name not in there]:
        raise UserError(
            f"{path}: the shards lack {len(missing):,} of the {len(index):,} tensors that their "
            f"index names: {listed(missing)}"
        )


def _is_unknown(value: Any) -> bool:
    return isinstance(value, torch_file.Unknown)


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or may be one of an unknown kind."""
    return isinstance(value, _SafeTensor | torch_file.Tensor | torch_file.Unknown)


def _content(tensors: Mapping[tuple[str, ...], Any]) -> str:
    """A short phrase on the content of a file."""
    if unknown := [value.title for value in tensors.values() if _is_unknown(value)]:
        return (
            f"it holds {listed(dict.fromkeys(unknown))}, which are never built; save a state_dict()"
        )
    names = [".".join(place) for place in tensors]
    count = counted(len(names), "tensors")
    return f"it holds {count}: {listed(names)}" if names else "it holds no tensors"
