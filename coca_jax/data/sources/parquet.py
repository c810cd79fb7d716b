"""Parquet files of images: the values of their columns, and a source that reads rows in order."""

import bisect
import functools
import itertools
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Context, SourceConfig, needs
from coca_jax.data.sources.base import Note, Record, Shard, base_name, to_labels, to_text
from coca_jax.data.sources.parquet_columns import Columns, Footer, common_columns, read_footer
from coca_jax.data.sources.split_files import files_of_split
from coca_jax.data.sources.tf_example import LABEL_KEYS
from coca_jax.data.texts import to_captions, with_places
from coca_jax.errors import UserError
from coca_jax.io import files, paths
from coca_jax.io.messages import cause, counted

AHEAD = 512  # consecutive rows that threads may read at the same time
OPENING_THREADS = 32  # they wait for the storage, not for the CPU
TAIL = 64 << 10  # bytes


class NoImage(NamedTuple):
    """A row without an image."""

    file: str  # the image file that the row names and that cannot be read; empty: it names none


def images_of(column: Any, folder: str) -> Iterator[bytes | NoImage]:
    """The image files of a column; Hugging Face's structs without bytes give a path instead."""
    for value in column.to_pylist():
        content = value if isinstance(value, dict) else {"bytes": value}
        yield content["bytes"] or _read_file(folder, content.get("path"))


def _read_file(folder: str, path: Any) -> bytes | NoImage:
    if not isinstance(path, str) or not path:
        return NoImage("")
    try:
        return files.read_bytes(paths.join(folder, paths.normalize(path))) or NoImage(path)
    except (OSError, UserError):
        return NoImage(path)


def values_of(column: Any, kind: str) -> list[list[Any]]:
    """The values of each row, without nulls; texts are bytes, as they are stored."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_list = kind.endswith("s")
    # Texts are not decoded: the reader of the records counts those that are not UTF-8.
    item = {"text": pyarrow.binary(), "float": pyarrow.float64()}.get(
        kind.removesuffix("s"), pyarrow.int64()
    )
    values = (
        column.type.value_type if is_list and hasattr(column.type, "value_type") else column.type
    )
    if item == pyarrow.binary() and pyarrow.types.is_integer(values):  # numbers become digits
        column = column.cast(pyarrow.list_(pyarrow.string()) if is_list else pyarrow.string())
    if not is_list:
        values = column.cast(item, safe=False).to_pylist()
        return [[] if value is None else [value] for value in values]
    rows = column.cast(pyarrow.list_(item), safe=False).to_pylist()
    return [[value for value in row or () if value is not None] for row in rows]


class ParquetSource:
    """Records of Parquet files, which are read in order: a few row groups stay in memory.

    Reading at random would read a whole row group for each record, so that training refuses it;
    `coca data convert` makes a data set with random access.
    """

    in_order = True

    def __init__(self, names: Sequence[str], footers: Sequence[Footer], columns: Columns):
        """Wraps files of the same columns.

        Args:
          names: paths of the files.
          footers: of each file.
          columns: the role of each column.
        """
        self._paths, self._columns = list(names), columns
        self.notes = list(_notes(columns))
        groups = [(file, group) for file, f in enumerate(footers) for group in range(len(f.rows))]
        self._groups = groups
        self._ends = list(itertools.accumulate(rows for f in footers for rows in f.rows))
        self._rows = [sum(footer.rows) for footer in footers]
        self.class_names = _label_names(columns)
        # So many row groups in memory that threads that read ahead read none of them twice.
        self._read = functools.lru_cache(_most_touched(self._ends) + 1)(self._read_group)
        self._locks = [threading.Lock() for _ in groups]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """Reads a row; raises a BadExample if it has no image."""
        number = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[number - 1] if number else 0)
        with self._locks[number]:  # of the threads that need a row group, one reads it
            group = self._read(number)
        if isinstance(group, BadExample):
            raise group
        image = group["image"][row]
        if isinstance(image, NoImage):
            raise BadExample("bad_record", f"no image{f' {image.file}' if image.file else ''}")
        captions = [text for column in group["captions"] for text in with_places(column[row])]
        fields = {name: values[row] for name, values in group["fields"].items()}
        kinds = self._columns.fields
        stored = next((fields.pop(key) for key in LABEL_KEYS if key in fields), [])
        stored = [to_text(v) if isinstance(v, bytes) else v for v in stored]
        label, labels = to_labels(stored, self.class_names)
        return {
            "image": image,
            **to_captions(map(to_text, captions)),
            "label": label,
            "labels": labels,
            "fields": {name: _plain(values, kinds[name]) for name, values in fields.items()},
        }

    def shard(self, index: int) -> str:
        """The file that a row is in."""
        return self._paths[self._groups[bisect.bisect_right(self._ends, index)][0]]

    def shards(self) -> list[Shard]:
        """The files."""
        with ThreadPoolExecutor(OPENING_THREADS) as threads:
            tails = list(threads.map(_tail, self._paths))
        return [
            Shard(base_name(path), size, rows, checksum)
            for path, rows, (size, checksum) in zip(self._paths, self._rows, tails, strict=True)
        ]

    def _read_group(self, number: int) -> dict[str, Any] | BadExample:
        """The columns of a row group by role, texts as bytes; or why it is damaged."""
        import pyarrow
        from pyarrow import parquet

        file, group = self._groups[number]
        path, columns = self._paths[file], self._columns
        names = [columns.image, *columns.captions, *columns.fields]
        try:
            with files.open_binary(path) as opened, parquet.ParquetFile(opened) as table:
                rows = table.read_row_group(group, names, use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            # pyarrow raises an OSError without a number for damaged pages; a store may, too, when
            # it does not answer.
            if isinstance(error, OSError) and (error.errno is not None or paths.is_url(path)):
                raise
            return BadExample("bad_record", f"row group {group}: {cause(error, path)}")

        def values(name: str, kind: str) -> list[list[Any]]:
            return [v for chunk in rows.column(name).chunks for v in values_of(chunk, kind)]

        images = (images_of(c, paths.folder_of(path)) for c in rows.column(columns.image).chunks)
        return {
            "image": list(itertools.chain.from_iterable(images)),
            "captions": [values(name, kind) for name, kind in columns.captions.items()],
            "fields": {name: values(name, kind) for name, kind in columns.fields.items()},
        }


@needs("path")
def open_parquet(options: SourceConfig, context: Context) -> ParquetSource:
    """The format `parquet`: files with encoded images in one of their columns.

    The columns are chosen as `coca data convert` chooses them, by their types and names.

    Raises:
      UserError: a file is not a Parquet file, holds no images, or has other columns than another.
    """
    del context
    names, notes = files_of_split(options.path, options.split, "*.parquet")
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        footers = list(threads.map(read_footer, names))
    image = options.image_keys[0] if options.image_keys else ""
    columns = common_columns(names, footers, image, options.text_keys)
    source = ParquetSource(names, footers, columns)
    source.notes = [*notes, *source.notes]
    return source


def _most_touched(ends: Sequence[int]) -> int:
    """The most row groups, of those that end at these rows, that AHEAD consecutive rows are in."""
    # They are in the most groups if the first of them is the last row of a group.
    last = (min(end - 1 + AHEAD, ends[-1]) - 1 for end in ends)
    return max(bisect.bisect_right(ends, row) - i + 1 for i, row in enumerate(last))


def _label_names(columns: Columns) -> list[str]:
    return next((columns.class_names[key] for key in LABEL_KEYS if key in columns.class_names), [])


def _notes(columns: Columns) -> Iterator[Note]:
    if columns.left_out:
        what = counted(len(columns.left_out), "columns are of a type that is not read")
        yield Note("left_out", len(columns.left_out), f"{what}: {', '.join(columns.left_out)}")


def _plain(values: list[Any], kind: str) -> Any:
    """The value of a field, None for null; of a column of lists the list. Texts become str."""
    values = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values]
    return values if kind.endswith("s") else next(iter(values), None)


def _tail(path: str) -> tuple[int, str]:
    """The size of a file, and a checksum of its end, where the metadata of its columns are."""
    size = files.stamp(path).size
    return size, f"{zlib.crc32(files.read_range(path, max(0, size - TAIL), min(size, TAIL))):08x}"
