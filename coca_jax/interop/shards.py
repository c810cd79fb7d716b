"""Finds the files of a model's weights: one file, shards with an index, or a folder of either."""

import json
import os
import pathlib
from collections.abc import Iterable

from etils import epath

from coca_jax.errors import UserError
from coca_jax.interop.names import listed
from coca_jax.io.paths import as_path

INDEX = ".index.json"
# The weights of a folder or repository: the first of these names that it has, else of the
# first of these ends that it has.
NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
    f"open_clip_model.safetensors{INDEX}",
    f"model.safetensors{INDEX}",
    f"pytorch_model.bin{INDEX}",
)
RANKS = (
    (f".safetensors{INDEX}",),
    (".safetensors",),
    (f".bin{INDEX}",),
    (".bin", ".pt", ".pth", ".ckpt"),
)
ENDS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", INDEX)  # of all that may be weights


def weight_files(path: str | os.PathLike) -> tuple[list[epath.Path], list[str]]:
    """The files that hold a model's weights, and the names that their index has, if there is one.

    Args:
      path: a file of weights, an index of shards, or a folder that holds one of them.

    Raises:
      UserError: there is no such file, an index is malformed or names files that are not there or
        not in its folder, or a folder holds no weights or several.
    """
    path = main_file(path)
    if not path.name.endswith(INDEX):
        return [path], []
    index = read_index(path)
    shards = list(dict.fromkeys(index.values()))
    if missing := [name for name in shards if not (path.parent / name).is_file()]:
        raise UserError(
            f"{path}: {len(missing):,} of {len(shards):,} shards are not there: {listed(missing)}"
        )
    return [path.parent / name for name in shards], list(index)


def main_file(path: str | os.PathLike) -> epath.Path:
    """The file of weights, or the index of shards, that a path is or holds.

    Raises:
      UserError: there is no such file, or a folder holds no weights or several.
    """
    path = as_path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return path


def _in_folder(folder: epath.Path) -> epath.Path:
    names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    for name in NAMES:
        if name in names:
            return folder / name
    weights = [name for name in names if any(name.endswith(end) for end in sum(RANKS, ()))]
    # Hubs keep a model in several forms; OpenCLIP's has its name.
    weights = [name for name in weights if name.startswith("open_clip")] or weights
    for ends in RANKS:
        if not (fitting := [name for name in weights if name.endswith(ends)]):
            continue
        if len(fitting) > 1:
            raise UserError(f"{folder} holds several files of weights: {listed(fitting)}; give one")
        return folder / fitting[0]
    raise UserError(
        f"{folder} holds no weights: no file is named .safetensors, .bin, .pt, .pth or .ckpt"
    )


def read_index(path: pathlib.Path | epath.Path) -> dict[str, str]:
    """The name of the shard of each tensor.

    Raises:
      UserError: the file is not an index, or names files outside of its folder.
    """
    try:
        index = json.loads(path.read_bytes())["weight_map"]
        if index and all(isinstance(shard, str) for shard in index.values()):
            _require_below(path, index.values())
            return index
        cause = "its weight_map should map names of tensors to names of files"
    except (OSError, ValueError, RecursionError) as error:
        cause = str(error)
    except (KeyError, TypeError, AttributeError):
        cause = 'it should hold {"weight_map": {NAME: FILE, ...}}'
    raise UserError(f"{path} is not an index of shards: {cause}")


def _require_below(path: pathlib.Path | epath.Path, names: Iterable[str]) -> None:
    if outside := [name for name in dict.fromkeys(names) if not _is_below(name)]:
        raise UserError(f"{path} names files outside of its folder: {listed(outside)}")


def _is_below(name: str) -> bool:
    """Whether a relative name stays in its folder."""
    parts = pathlib.PurePosixPath(name.replace("\\", "/")).parts
    return (
        bool(parts) and ".." not in parts and not parts[0].startswith("/") and ":" not in parts[0]
    )
