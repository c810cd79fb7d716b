"""ArrayRecord files of serialized `tf.train.Example`s, read at random."""

import bisect
import itertools
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from coca_jax.data.sources import Context, SourceConfig, needs
from coca_jax.data.sources.base import Note, Record, Shard, base_name, what_reads
from coca_jax.data.sources.split_files import files_of_split
from coca_jax.data.sources.tf_example import to_record
from coca_jax.errors import UserError
from coca_jax.io import files, http

OPENING_THREADS = 32  # they wait for the storage, not for the CPU
TAIL = 128 << 10  # bytes at the end of a file, which hold the offsets of its records


class ArrayRecordSource:
    """Records of ArrayRecord files, each opened when the first of its records is read."""

    notes: Sequence[Note] = ()

    def __init__(self, parts: Sequence[Any], class_names: Sequence[str] = ()):
        """Wraps array_record's own data source.

        Args:
          parts: TFDS's file instructions, at least one: consecutive records of a file.
          class_names: of the integer labels.
        """
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.class_names = list(class_names)
        self._records = ArrayRecordDataSource(list(parts))
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(part.take for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        return to_record(self._records[index], self.class_names)

    def shard(self, index: int) -> str:
        """The file that holds a record."""
        return self._parts[bisect.bisect_right(self._ends, index)].filename

    def shards(self) -> list[Shard]:
        """The files, or the parts of them that a split has."""
        with ThreadPoolExecutor(OPENING_THREADS) as threads:
            return list(threads.map(_shard, self._parts))


def _shard(part: Any) -> Shard:
    path, first = str(part.filename), f" from {part.skip}" if part.skip else ""
    try:
        size = files.stamp(path).size
        tail = files.read_range(path, max(0, size - TAIL), min(size, TAIL))
    except UserError:  # array_record reads gs:// without the package that files need
        return Shard(base_name(path), 0, part.take, first)
    return Shard(base_name(path), size, part.take, f"{zlib.crc32(tail):08x}{first}")


@needs("path")
def open_array_record(options: SourceConfig, context: Context) -> ArrayRecordSource:
    """The format `array_record`; see `array_record_source`."""
    del context
    return array_record_source(options.path, options.split)


def array_record_source(path: str | Sequence[str], split: str = "") -> ArrayRecordSource:
    """Opens bare ArrayRecord files, whose records are `tf.train.Example`s.

    They are read one by one, so they should be written with `group_size:1`.

    Args:
      path: the files (`files.expand`), on local disks or at `gs://`; or a local folder of them.
      split: of a folder whose files are named by splits (`files_of_split`).

    Raises:
      UserError: a file is missing or no ArrayRecord file, or there is no record in any of them.
    """
    paths, notes = files_of_split(path, split, "*array_record*")
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        source = ArrayRecordSource(list(threads.map(_whole_file, paths)))
    if not len(source):
        raise UserError(f"the ArrayRecord files {path} hold no records")
    source.notes = notes
    return source


def _whole_file(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.core.utils.shard_utils import FileInstruction

    if files.is_url(path) and not path.startswith("gs://"):
        shown = http.shown(path)
        raise UserError(f"{shown}: ArrayRecord files are read from local disks or gs:// only")
    try:
        reader = ArrayRecordReader(path)
        count = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        reason = str(error) or "it is truncated, or of another format"
        raise UserError(
            f"{path} cannot be read as an ArrayRecord file: {reason}{what_reads([path])}"
        ) from error
    return FileInstruction(path, skip=0, take=count, examples_in_shard=count)
