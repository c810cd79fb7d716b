"""The folder of results: settings, a file of results for each part, and a record of each part.

    OUT/_settings.json       command, model, options: what all results have in common
    OUT/00000.parquet        results of the usable records of a part, in the order of the shard
    OUT/_done/00000.json     written after it: the shard's identity, and its unusable records

A part is done if it has its record, so that an interrupted run goes on at the first part without
one. Files are written whole or not at all. Programs that read a folder of Parquet files leave out
names that begin with `_`.
"""

import dataclasses
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from coca_jax.batch_inference.data import Part
from coca_jax.batch_inference.tasks import Column, Columns
from coca_jax.data.results import DONE, IDENTITY, SETTINGS
from coca_jax.errors import UserError
from coca_jax.io import files, folders, paths
from coca_jax.io.stored import Damaged, fits, is_step, read_json

ID_TYPES = {"key": pyarrow.string(), "source": pyarrow.string(), "index": pyarrow.int64()}
STORED = {"stored": pyarrow.string()}


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """The record of a part that is done."""

    shard: list[Any]  # name, size and checksum of the shard, and the part's first record in it
    results: int
    checksum: str  # of the file of results
    bad: list[list[Any]]  # number in the shard, key, and reason of each unusable record


@dataclasses.dataclass(frozen=True)
class Output:
    """A folder that results of one command, model and set of options are written to.

    Attributes:
      folder: local, or at gs:// or s3://.
      file_format: parquet, jsonl or npy.
      settings: what all results have in common: JSON values.
      columns: the types of the results, so that all files have the same.
    """

    folder: str
    file_format: str
    settings: Mapping[str, Any]
    columns: Mapping[str, pyarrow.DataType] = dataclasses.field(default_factory=dict)

    def open(self) -> None:
        """Makes the folder, or checks that its results have these settings.

        Raises:
          UserError: they have others; names each, with both values.
        """
        path = paths.join(self.folder, SETTINGS)
        settings = {**self.settings, "format": self.file_format}
        try:
            stored = read_json(path)
        except FileNotFoundError:
            names = [name for name in self._names() if name[0] != "_"]
            if names:
                raise UserError(
                    f"{self.folder} holds {names[0]!r} and no {SETTINGS}: choose a new folder"
                ) from None
            files.write_whole(path, json.dumps(settings, indent=1).encode())
            return
        except Damaged as error:
            raise UserError(f"{path} {error}") from error
        settings = json.loads(json.dumps(settings))  # as they are read
        different = [k for k in settings | stored if settings.get(k) != stored.get(k)]
        if different and not self._names(DONE):
            files.write_whole(path, json.dumps(settings, indent=1).encode())
        elif different:
            lines = [f"  {k}: {stored.get(k)!r}, now {settings.get(k)!r}" for k in different]
            raise UserError(
                f"{self.folder} holds results of other settings; choose another folder:\n"
                + "\n".join(lines)
            )
        files.remove_temporaries(self.folder)
        files.remove_temporaries(paths.join(self.folder, DONE))

    def done(self, parts: Sequence[Part]) -> dict[str, PartRecord]:
        """The records of the parts that are done, by name.

        Raises:
          UserError: a shard is another one than when its results were written.
        """
        written, there, records = set(self._names()), set(self._names(DONE)), {}
        for part in parts:
            if f"{part.name}.{self.file_format}" not in written:
                continue
            if f"{part.name}.json" in there and (record := self._record(part.name)):
                if record.shard != _identity(part):
                    raise UserError(
                        f"{self.folder}/{part.name}.{self.file_format} has results of "
                        f"{_words(record.shard)}, and the shard is now {_words(_identity(part))}; "
                        f"to make them again, remove {self._record_path(part.name)}"
                    )
                records[part.name] = record
        return records

    def surplus(self, parts: Sequence[Part]) -> list[str]:
        """Names of parts that have results here, and are not among these."""
        names = {part.name for part in parts}
        done = (name.removesuffix(".json") for name in self._names(DONE))
        return [name for name in done if name not in names]

    def _names(self, folder: str = "") -> list[str]:
        """Names in the folder, or in a folder of it, that are not hidden."""
        there = folders.children(paths.join(self.folder, folder) if folder else self.folder)
        return [path.name for path in there if path.name[0] != "."]

    def write(self, part: Part, columns: Columns, bad: list[list[Any]]) -> PartRecord:
        """Writes the results of a part, and then its record.

        Args:
          part: which one.
          columns: the results, with `key`, `source` and `index`.
          bad: number in the shard, key and reason of each unusable record.
        """
        stem, content = paths.join(self.folder, part.name), dict(columns)
        if self.file_format == "parquet":
            data = _parquet(content, self.columns)
        elif self.file_format == "jsonl":
            data = _jsonl(content)
        else:
            data = _npy(content.pop("embedding"), self.columns.get("embedding"))
            files.write_whole(f"{stem}.ids.jsonl", _jsonl(content))
        files.write_whole(f"{stem}.{self.file_format}", data)
        checksum = f"{zlib.crc32(data):08x}"
        record = PartRecord(_identity(part), len(columns["key"]), checksum, bad)
        text = json.dumps(dataclasses.asdict(record))
        files.write_whole(self._record_path(part.name), text.encode())
        return record

    def _record_path(self, name: str) -> str:
        return paths.join(self.folder, DONE, f"{name}.json")

    def _record(self, name: str) -> PartRecord | None:
        """A part's record; None if it is damaged, so that the part is made again."""
        try:
            content = read_json(self._record_path(name))
        except Damaged:
            return None
        shape = {"shard": list, "results": is_step, "checksum": str, "bad": list}
        if not fits(content, shape) or len(content["shard"]) != IDENTITY:
            return None
        return PartRecord(**{name: content[name] for name in shape})


def _identity(part: Part) -> list[Any]:
    return [part.shard.name, part.shard.size, part.shard.checksum, part.first, part.count]


def _words(identity: Sequence[Any]) -> str:
    name, size, checksum, first, count = identity
    return f"{name} ({size:,} bytes, checksum {checksum}, records {first} to {first + count - 1})"


def _parquet(columns: Columns, types: Mapping[str, pyarrow.DataType]) -> bytes:
    types = {**ID_TYPES, **types, **STORED}
    arrays = {name: _array(values, types.get(name)) for name, values in columns.items()}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()


def _array(values: Column, kind: pyarrow.DataType | None) -> pyarrow.Array:
    if isinstance(values, np.ndarray):
        numbers = pyarrow.array(values.reshape(-1))
        return pyarrow.FixedSizeListArray.from_arrays(numbers, values.shape[1])
    return pyarrow.array(values, kind)


def _jsonl(columns: Columns) -> bytes:
    names = list(columns)
    rows = zip(*(_plain(columns[name]) for name in names), strict=True)
    lines = [json.dumps(dict(zip(names, row, strict=True)), default=str) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(values: Column) -> Sequence[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _npy(embeddings: Column, kind: pyarrow.DataType | None) -> bytes:
    if not isinstance(embeddings, np.ndarray):  # there are none
        width = kind.list_size if kind else 0
        embeddings = np.zeros((0, width), kind.value_type.to_pandas_dtype() if kind else None)
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    return buffer.getvalue()


def require_format(file_format: str, command: str) -> None:
    """Raises a UserError if a command's results cannot be written in a format."""
    if file_format == "npy" and command != "embed":
        raise UserError(f"--format npy is for embeddings; coca {command} writes parquet or jsonl")


def output_folder(path: str | os.PathLike) -> str:
    """The folder that a user names; raises a UserError if it is a file."""
    folder = os.fspath(paths.as_path(path))
    if files.is_file(folder):
        raise UserError(f"--output {folder} is a file; it should be a folder")
    return folder
