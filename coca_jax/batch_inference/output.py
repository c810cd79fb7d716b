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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coca_jax.batch_inference.data import Part
from coca_jax.batch_inference.tasks import Column, Columns
from coca_jax.data.results import DONE, SETTINGS
from coca_jax.errors import UserError
from coca_jax.io import files, folders, paths
from coca_jax.io.stored import Damaged, fits, is_step, read_json


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """The record of a part that is done."""

    shard: list[Any]  # name, size and checksum of the shard, and the part's first record in it
    results: int
    bad: list[list[Any]]  # number in the shard, key, and reason of each unusable record


@dataclasses.dataclass(frozen=True)
class Output:
    """A folder that results of one command, model and set of options are written to.

    Attributes:
      folder: local, or at gs:// or s3://.
      file_format: parquet, jsonl or npy.
      settings: what all results have in common: JSON values.
    """

    folder: str
    file_format: str
    settings: Mapping[str, Any]

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
            names = [path.name for path in folders.children(self.folder)]
            if others := [name for name in names if name[0] not in "._"]:
                raise UserError(
                    f"{self.folder} holds {others[0]!r} and no {SETTINGS}: choose a new folder"
                ) from None
            files.write_whole(path, json.dumps(settings, indent=1).encode())
            return
        except Damaged as error:
            raise UserError(f"{path} {error}") from error
        settings = json.loads(json.dumps(settings))  # as they are read
        if different := [k for k in settings | stored if settings.get(k) != stored.get(k)]:
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
        there = {path.name for path in folders.children(paths.join(self.folder, DONE))}
        records = {}
        for part in parts:
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
        done = folders.children(paths.join(self.folder, DONE))
        found = (path.name.removesuffix(".json") for path in done if path.name.endswith(".json"))
        return [name for name in found if name[0] != "." and name not in names]

    def write(self, part: Part, columns: Columns, bad: list[list[Any]]) -> PartRecord:
        """Writes the results of a part, and then its record.

        Args:
          part: which one.
          columns: the results, with ID_COLUMNS.
          bad: number in the shard, key and reason of each unusable record.
        """
        count = len(columns["key"])
        stem = paths.join(self.folder, part.name)
        if self.file_format == "parquet":
            files.write_whole(f"{stem}.parquet", _parquet(columns))
        elif self.file_format == "jsonl":
            files.write_whole(f"{stem}.jsonl", _jsonl(columns))
        else:
            columns = dict(columns)
            embeddings = columns.pop("embedding", np.zeros((0, 0), np.float32))
            files.write_whole(f"{stem}.ids.jsonl", _jsonl(columns))
            files.write_whole(f"{stem}.npy", _npy(embeddings))
        record = PartRecord(_identity(part), count, bad)
        content = json.dumps(dataclasses.asdict(record)).encode()
        files.write_whole(self._record_path(part.name), content)
        return record

    def _record_path(self, name: str) -> str:
        return paths.join(self.folder, DONE, f"{name}.json")

    def _record(self, name: str) -> PartRecord | None:
        """A part's record; None if it is damaged, so that the part is made again."""
        try:
            content = read_json(self._record_path(name))
        except Damaged:
            return None
        if not fits(content, {"shard": list, "results": is_step, "bad": list}):
            return None
        return PartRecord(content["shard"], content["results"], content["bad"])


def _identity(part: Part) -> list[Any]:
    return [part.shard.name, part.shard.size, part.shard.checksum, part.first, part.count]


def _words(identity: Sequence[Any]) -> str:
    name, size, checksum, first, count = identity
    return f"{name} ({size:,} bytes, checksum {checksum}, records {first} to {first + count - 1})"


def _parquet(columns: Columns) -> bytes:
    import pyarrow
    from pyarrow import parquet

    arrays = {name: _array(name, values) for name, values in columns.items()}
    table, buffer = pyarrow.table(arrays), io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _array(name: str, values: Column) -> Any:
    """A column; values of a field that have no common type are written as JSON."""
    import pyarrow

    if isinstance(values, np.ndarray):
        flat = pyarrow.array(values.reshape(-1))
        return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    types = {"index": pyarrow.int64(), "log_probability": pyarrow.float32()}
    types |= {"similarity": pyarrow.float32(), "similarities": pyarrow.list_(pyarrow.float32())}
    types |= dict.fromkeys(("key", "source", "caption"), pyarrow.string())
    if name in types:
        return pyarrow.array(values, types[name])
    try:
        array = pyarrow.array(values)
        return array.cast(pyarrow.string()) if pyarrow.types.is_null(array.type) else array
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        return pyarrow.array([None if v is None else json.dumps(v, default=str) for v in values])


def _jsonl(columns: Columns) -> bytes:
    names = list(columns)
    rows = zip(*(_plain(columns[name]) for name in names), strict=True)
    lines = [json.dumps(dict(zip(names, row, strict=True)), default=str) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(values: Column) -> Sequence[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _npy(embeddings: np.ndarray) -> bytes:
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
