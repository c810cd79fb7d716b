"""The folder of results: settings, a file of results for each part, and a record of each part.

    OUT/_settings.json       command, model, options: what all results have in common
    OUT/00000.parquet        results of the usable records of a part, in the order of the shard
    OUT/_done/00000.json     written after it: the shard's identity, and its unusable records

A part is done if it has its record and files of the sizes that the record states, so that an
interrupted run goes on at the first part without. Files are written whole or not at all. Programs
that read a folder of Parquet files leave out names that begin with `_`.
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
from coca_jax.io.stored import Damaged, finite, fits, is_step, read_json

ID_TYPES = {"key": pyarrow.string(), "source": pyarrow.string(), "index": pyarrow.int64()}
STORED = {"stored": pyarrow.string()}
IDS = "ids.jsonl"  # the ending of the file next to a .npy


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """The record of a part that is done."""

    shard: list[Any]  # name, size and checksum of the shard, and the part's first record in it
    results: int
    checksum: str  # of the file of results
    bad: list[list[Any]]  # number in the shard, key, and reason of each unusable record
    settings: str = ""  # their checksum; empty: of an earlier version, which wrote none
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of its files, by ending


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
        try:
            stored = self._stored_settings()
        except FileNotFoundError:
            names = [name for name in self._names() if name[0] != "_"]
            if names:
                raise UserError(
                    f"{self.folder} holds {names[0]!r} and no {SETTINGS}: choose a new folder"
                ) from None
            self._write_settings()
            return
        different = self._difference(stored)
        if different and not self._names(DONE):
            self._write_settings()
        elif different:
            raise UserError(
                f"{self.folder} holds results of other settings; choose another folder:\n"
                f"{different}"
            )
        files.remove_temporaries(self.folder)
        files.remove_temporaries(paths.join(self.folder, DONE))

    def _all_settings(self) -> dict[str, Any]:
        """The settings and the format, as they are read again."""
        return json.loads(json.dumps({**self.settings, "format": self.file_format}))

    def _write_settings(self) -> None:
        text = json.dumps(self._all_settings(), indent=1)
        files.write_whole(paths.join(self.folder, SETTINGS), text.encode())

    def _stored_settings(self) -> dict[str, Any]:
        path = paths.join(self.folder, SETTINGS)
        try:
            return read_json(path)
        except Damaged as error:
            raise UserError(f"{path} {error}") from error

    def _difference(self, stored: Mapping[str, Any]) -> str:
        """A line for each setting that differs from what is stored; empty: none does."""
        now = self._all_settings()
        names = [name for name in now | stored if now.get(name) != stored.get(name)]
        return "\n".join(f"  {n}: {stored.get(n)!r}, now {now.get(n)!r}" for n in names)

    def _require_own(self) -> None:
        """Raises a UserError if a command with other settings has taken the folder since `open`."""
        try:
            different = self._difference(self._stored_settings())
        except FileNotFoundError:
            different = f"  {SETTINGS} was removed"
        if different:
            raise UserError(
                f"another command writes to {self.folder}, with other settings; choose another "
                f"folder:\n{different}"
            )

    @property
    def _checksum(self) -> str:
        """A checksum of the settings."""
        return f"{zlib.crc32(json.dumps(self._all_settings(), sort_keys=True).encode()):08x}"

    def done(self, parts: Sequence[Part]) -> dict[str, PartRecord]:
        """The records of the parts that are done, by name.

        Raises:
          UserError: a shard is another one than when its results were written, or they were
            written with other settings.
        """
        there = {name: info.size for name, info in folders.tree(self.folder).items()}
        records = {}
        for part in parts:
            record = self._record(part.name) if f"{DONE}/{part.name}.json" in there else None
            if record and self._is_whole(part.name, record, there):
                self._require_same(part, record)
                records[part.name] = record
        return records

    def _is_whole(self, name: str, record: PartRecord, there: Mapping[str, int]) -> bool:
        """Whether the files of a part are there, with the sizes that its record states."""
        endings = (self.file_format, IDS) if self.file_format == "npy" else (self.file_format,)
        sizes = {ending: there.get(f"{name}.{ending}") for ending in endings}
        return sizes == record.sizes if record.sizes else None not in sizes.values()

    def _require_same(self, part: Part, record: PartRecord) -> None:
        """Raises a UserError if a part's results are of another shard, or of other settings."""
        if record.shard != _identity(part):
            why = f"of {_words(record.shard)}, and the shard is now {_words(_identity(part))}"
        elif record.settings not in ("", self._checksum):
            why = "of another command, which wrote to this folder at the same time"
        else:
            return
        raise UserError(
            f"{self.folder}/{part.name}.{self.file_format} has results {why}; "
            f"to make them again, remove {self._record_path(part.name)}"
        )

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

        Raises:
          UserError: a command with other settings writes to the folder, too.
        """
        content, written = dict(columns), {}
        if self.file_format == "parquet":
            data = _parquet(content, self.columns)
        elif self.file_format == "jsonl":
            data = _jsonl(content)
        else:
            data = _npy(content.pop("embedding"), self.columns.get("embedding"))
            written[IDS] = _jsonl(content)
        written[self.file_format] = data
        self._require_own()
        for ending, text in written.items():
            files.write_whole(paths.join(self.folder, f"{part.name}.{ending}"), text)
        record = PartRecord(
            _identity(part),
            len(columns["key"]),
            f"{zlib.crc32(data):08x}",
            bad,
            self._checksum,
            {ending: len(text) for ending, text in written.items()},
        )
        self._require_own()  # again: another command may have found no record meanwhile
        text = json.dumps(dataclasses.asdict(record)).encode()
        files.write_whole(self._record_path(part.name), text)
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
        shape |= {"settings?": str, "sizes?": dict}
        if not fits(content, shape) or len(content["shard"]) != IDENTITY:
            return None
        names = [field.name for field in dataclasses.fields(PartRecord)]
        return PartRecord(**{name: content[name] for name in names if name in content})


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
    lines = [json.dumps(finite(dict(zip(names, row, strict=True))), default=str) for row in rows]
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


def output_folder(path: str | os.PathLike) -> str:
    """The folder that a user names; raises a UserError if it is something else."""
    folder = os.fspath(paths.as_path(path))
    if os.path.islink(folder) and not os.path.exists(folder):
        raise UserError(
            f"--output {folder} is a link to {os.readlink(folder)}, which is not there; make that "
            "folder, or give another one"
        )
    if files.is_file(folder):
        raise UserError(f"--output {folder} is a file; it should be a folder")
    return folder
