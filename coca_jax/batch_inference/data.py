"""The data set that a command names by a path, and the parts that its results are written in."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from coca_jax.data.sources import Shard, Source, SourceConfig
from coca_jax.data.sources.tables import SUFFIXES
from coca_jax.errors import UserError
from coca_jax.io import paths

_ENDINGS = (".tar", ".parquet", ".jsonl", ".csv", ".tsv")
_STRANGE = re.compile(r"[^\w.=+-]+")  # characters that are no part of a file name here


class Part(NamedTuple):
    """Consecutive records of a shard, whose results are one file."""

    name: str  # of the file, without its ending
    shard: Shard
    start: int  # number of its first record in the source
    count: int  # of its records
    first: int  # number of its first record in the shard


def data_options(
    path: str,
    data_format: str = "",
    split: str = "",
    image_keys: Sequence[str] = (),
    text_keys: Sequence[str] = (),
) -> SourceConfig:
    """The options of the source that a path stands for.

    Args:
      path: files, patterns or a folder, local or URLs; or `tfds:NAME`.
      data_format: one of `sources`; empty: by the endings of the files, or what the folder holds.
      split: of a TFDS data set or a folder that has several.
      image_keys: as of `SourceConfig`.
      text_keys: as of `SourceConfig`.

    Raises:
      UserError: the format cannot be seen from the path.
    """
    keys = {"split": split, "image_keys": tuple(image_keys), "text_keys": tuple(text_keys)}
    if path.startswith("tfds:"):
        return SourceConfig(format="tfds", name=path.removeprefix("tfds:"), **keys)
    path = paths.normalize(path)
    return SourceConfig(format=data_format or _guess(path), path=path, **keys)


def _guess(path: str) -> str:
    if not paths.is_url(path) and os.path.isdir(path):
        return _guess_of_folder(path)
    name = path.partition("?")[0].lower()
    if name.endswith(".tar"):
        return "webdataset"
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(SUFFIXES):
        return "folder"
    if "array_record" in name.rpartition("/")[2]:
        return "array_record"
    if not paths.is_url(path) and not os.path.exists(path) and not re.search(r"[*?\[{]", path):
        raise UserError(f"--data {path}: there is no such file or folder")
    raise UserError(
        f"--data {path}: its format cannot be seen from its name; give --data-format, one of tfds, "
        "webdataset, parquet, array_record, folder"
    )


def _guess_of_folder(path: str) -> str:
    with os.scandir(path) as entries:
        names = [entry.name.lower() for entry in entries]
    below = names
    for name in os.listdir(path):  # the folders of splits
        if os.path.isdir(os.path.join(path, name)):
            below = below + [inner.lower() for inner in os.listdir(os.path.join(path, name))[:1000]]
    if "dataset_info.json" in names:
        return "tfds"
    if any(name.endswith(".tar") for name in below):
        return "webdataset"
    return "parquet" if any(name.endswith(".parquet") for name in names) else "folder"


def split(source: Source, most: int) -> list[Part]:
    """Splits a source into parts: its shards, or equal pieces of those that are too large.

    Args:
      source: of the records.
      most: records of a part.

    Raises:
      UserError: the source has no records, or its shards do not add up to them.
    """
    shards = source.shards()
    total = sum(shard.records for shard in shards)
    if total != len(source) or not total:
        raise UserError(f"the data set has {len(source):,} records, and its shards have {total:,}")
    return list(_parts([shard for shard in shards if shard.records], most))


def _parts(shards: Sequence[Shard], most: int) -> Iterator[Part]:
    start, names = 0, set()
    for shard in shards:
        stem = _unused(_stem(shard.name), names)
        pieces = -(-shard.records // most)
        for piece in range(pieces):
            first, end = (shard.records * i // pieces for i in (piece, piece + 1))
            name = f"{stem}-{piece:05d}-of-{pieces:05d}" if pieces > 1 else stem
            yield Part(name, shard, start + first, end - first, first)
        start += shard.records


def _stem(name: str) -> str:
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return _STRANGE.sub("_", name[: len(name) - len(ending)]).strip("._") or "data"


def _unused(stem: str, names: set[str]) -> str:
    """The name, with a number behind it if shards of other folders have it, too."""
    number, name = 1, stem
    while name.lower() in names:
        number += 1
        name = f"{stem}-{number}"
    names.add(name.lower())
    return name
