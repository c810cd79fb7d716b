"""The data set that a command names by a path, and the parts that its results are written in."""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from coca_jax.batch_inference.images import ImagesSource
from coca_jax.data.file_names import is_image
from coca_jax.data.sources import Shard, Source, SourceConfig, open_source, sources
from coca_jax.data.sources.base import base_name
from coca_jax.data.sources.tables import SUFFIXES
from coca_jax.errors import UserError
from coca_jax.io import files, http, paths

IMAGES = "images"  # a folder of images, by any names; not for training
FILES = ("webdataset", "parquet", "array_record")  # formats of files that are shards

_ENDINGS = (".tar", ".parquet", ".jsonl", ".csv", ".tsv")
_UNSAFE = re.compile(r"[^\w.=+-]+")  # characters that are not part of a file name here


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
      split: of a TFDS data set or a folder that has several; files that are named are all read.
      image_keys: as of `SourceConfig`.
      text_keys: as of `SourceConfig`.

    Raises:
      UserError: the format cannot be seen from the path, or an option has no effect on it.
    """
    keys = {"split": split, "image_keys": tuple(image_keys), "text_keys": tuple(text_keys)}
    if path.startswith("tfds:"):
        if data_format not in ("", "tfds"):
            raise UserError(f"--data-format {data_format}: --data {path} is in the format tfds")
        named = SourceConfig(format="tfds", name=path.removeprefix("tfds:"), **keys)
    else:
        path = paths.normalize(path)
        named = SourceConfig(format=data_format or _guess(path), path=path, **keys)
    if named.format not in (IMAGES, *sources):
        known = ", ".join((*sources, IMAGES))
        raise UserError(f"--data-format {named.format} should be one of {known}")
    if (image_keys or text_keys) and named.format not in ("webdataset", "parquet"):
        raise UserError(
            f"--image-keys and --text-keys are for webdataset and parquet, not for {named.format}"
        )
    if split and not _may_have_splits(named):
        raise UserError(
            f"--split {split}: --data {path} ({named.format}) has no splits, which a TFDS data set "
            "or a folder of files can have; leave the option out, or name the files of the split"
        )
    return named


def _may_have_splits(options: SourceConfig) -> bool:
    """Whether a format looks at the split: not at that of named files, images or a table."""
    if options.format not in (*FILES, IMAGES, "folder"):
        return True
    folder = str(options.path)
    if options.format == IMAGES or not os.path.isdir(folder):
        return False
    has_table = any(name.lower().endswith(SUFFIXES) for name in os.listdir(folder))
    return options.format != "folder" or not has_table


def _guess(path: str) -> str:
    if not paths.is_url(path) and os.path.isdir(path):
        return _guess_of_folder(path)
    name = (path.partition("?")[0] if paths.is_url(path) else path).lower()
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
        f"--data {http.shown(path)}: its format cannot be seen from its name; give --data-format, "
        "one of tfds, webdataset, parquet, array_record, folder, images"
    )


def _guess_of_folder(path: str) -> str:
    names, below = [], []
    for folder, folders, files_here in os.walk(path):
        if folder == path:
            names = [name.lower() for name in files_here]
            folders[:] = sorted(folders)
        else:  # those of splits, or of classes
            below += [name.lower() for name in files_here[:1000]]
            folders.clear()
    if "dataset_info.json" in names:
        return "tfds"
    for ending in (".tar", ".parquet"):
        if any(name.endswith(ending) for name in names + below):
            return "webdataset" if ending == ".tar" else "parquet"
    if any("array_record" in name for name in names):
        return "array_record"
    if any(map(is_image, names)) and not any(name.endswith(SUFFIXES) for name in names):
        return IMAGES
    return "folder"


def open_data(options: SourceConfig) -> Source:
    """Opens what `data_options` describes.

    Raises:
      UserError: it cannot be opened.
    """
    if options.format == IMAGES:
        return ImagesSource(options.path)
    return open_source(options)


def take_share(options: SourceConfig, index: int, count: int) -> tuple[SourceConfig, list[str]]:
    """Chooses every `count`-th of the files, so that a process opens no others.

    Args:
      options: of all files.
      index: of the first.
      count: of the processes.

    Returns:
      Options of these files, and the name of each one's results; no names: the data set is not a
      list of at least `count` files, and its parts are to be shared instead.
    """
    if count == 1 or options.format not in FILES or os.path.isdir(str(options.path)):
        return options, []
    names = files.expand(options.path)
    if len(names) < count:
        return options, []
    used: set[str] = set()
    stems = [_unused(_stem(base_name(name)), used) for name in names]
    return dataclasses.replace(options, path=tuple(names[index::count])), stems[index::count]


def open_share(
    options: SourceConfig, index: int, count: int, most: int
) -> tuple[Source, list[Part]]:
    """Opens the data set, or the share of its files that a process has, and lists its parts.

    Args:
      options: of all files.
      index: of the process.
      count: of the processes.
      most: records of a part.

    Returns:
      The source, and this process's parts of it: none if other shares have all records.

    Raises:
      UserError: it cannot be opened, or has no records.
    """
    mine, names = take_share(options, index, count)
    if not names:
        source = open_data(options)
        return source, split(source, most)[index::count]
    try:
        source = open_data(mine)
    except UserError:
        whole = open_data(options)  # raises, too, unless only this share has no records
        if any(shard.records for shard in whole.shards()[index::count]):
            raise
        return whole, []
    return source, split(source, most, names)


def split(source: Source, most: int, names: Sequence[str] = ()) -> list[Part]:
    """Splits a source into parts: its shards, or equal pieces of those that are too large.

    Args:
      source: of the records.
      most: records of a part.
      names: of the shards' results, without an ending; none: by the names of the shards.

    Raises:
      UserError: the source has no records, or its shards do not add up to them.
    """
    shards = source.shards()
    total = sum(shard.records for shard in shards)
    if total != len(source) or not total:
        raise UserError(f"the data set has {len(source):,} records, and its shards have {total:,}")
    used: set[str] = set()
    names = names or [_unused(_stem(shard.name), used) for shard in shards]
    return list(_parts(shards, names, most))


def _parts(shards: Sequence[Shard], names: Sequence[str], most: int) -> Iterator[Part]:
    start = 0
    for shard, stem in zip(shards, names, strict=True):
        pieces = -(-shard.records // most)
        for piece in range(pieces):
            first, end = (shard.records * i // pieces for i in (piece, piece + 1))
            name = f"{stem}-{piece:05d}-of-{pieces:05d}" if pieces > 1 else stem
            yield Part(name, shard, start + first, end - first, first)
        start += shard.records


def _stem(name: str) -> str:
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return _UNSAFE.sub("_", name[: len(name) - len(ending)]).strip("._") or "data"


def _unused(stem: str, names: set[str]) -> str:
    """The name, with a number behind it if shards of other folders have it, too."""
    number, name = 1, stem
    while name.lower() in names:
        number += 1
        name = f"{stem}-{number}"
    names.add(name.lower())
    return name
