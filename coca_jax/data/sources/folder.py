"""Images in files of their own: listed in a table with captions, or in a folder for each class."""

import ast
import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from coca_jax.data.errors import BadExample
from coca_jax.data.file_names import is_hidden, is_image
from coca_jax.data.sources import Context, SourceConfig, needs, one_path
from coca_jax.data.sources.base import (
    Note,
    Record,
    RowValues,
    Shard,
    base_name,
    to_labels,
    what_reads,
)
from coca_jax.data.sources.class_folders import ClassFolders, split_folders
from coca_jax.data.sources.delimited import column_of
from coca_jax.data.sources.tables import FAULTS, SUFFIXES, Table
from coca_jax.data.texts import MISSING_WORDS, to_captions
from coca_jax.errors import UserError
from coca_jax.io import files, http, paths
from coca_jax.io.messages import counted

# Columns of a table; the first of each row that it has is read.
IMAGE_COLUMNS = (
    *("image", "images", "video", "frames"),
    *("file_name", "filename", "filepath", "path"),
)
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
LABEL_COLUMNS = ("labels", "label")

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class Entry(NamedTuple):
    """The image of a record, and what is stored about it."""

    image: str | list[str]  # a path relative to the folder, or any other; or several
    captions: list[Any]  # possibly no texts
    labels: list[str | int]
    fields: dict[str, Any]


class FolderSource:
    """Images in files of their own, each opened when its record is read."""

    def __init__(self, root: str, entries: "_Rows | _Classes", class_names: Iterable[str] = ()):
        """Wraps the entries.

        Args:
          root: the folder that paths of images are relative to, local or a URL.
          entries: paths of the images, and what is stored about them.
          class_names: of the integer labels.
        """
        self._root, self._entries, self.class_names = root, entries, list(class_names)
        self.notes: list[Note] = entries.notes

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        entry = self._entries[index]
        if isinstance(entry.image, list):
            image = [self._read(path) for path in entry.image]
        else:
            image = self._read(entry.image)
        label, labels = to_labels(entry.labels, self.class_names)
        return {
            "key": entry.image if isinstance(entry.image, str) else entry.image[0],
            "image": image,
            **to_captions(entry.captions),
            "label": label,
            "labels": labels,
            "fields": entry.fields,
        }

    def _read(self, path: str) -> bytes | list[bytes]:
        missing = None
        try:
            for one in _spellings(path):
                try:
                    return read_image_files(
                        one if paths.is_url(one) else paths.join(self._root, one)
                    )
                except FileNotFoundError as error:
                    missing = missing or error
        except (ValueError, UserError) as error:  # no file can have this name
            raise BadExample("bad_record", f"the path of the image is {path!r}: {error}") from error
        raise missing or FileNotFoundError(path)

    def shard(self, index: int) -> str:
        """The table, or the folder of the class, in which a record is."""
        return self._entries.part(index)

    def shards(self) -> list[Shard]:
        """The table, without the images that it names; or the folders of the classes."""
        return self._entries.shards()


def _spellings(path: str) -> list[str]:
    """A path as it is written, and as Windows or a person may have meant it."""
    if paths.is_url(path):  # for each of them a server would be asked
        return [path]
    others = map(paths.normalize, (path, path.strip().replace("\\", "/")))
    return list(dict.fromkeys((path, *others)))


def read_image_files(path: str) -> bytes | list[bytes]:
    """A file, or the image files of a folder of frames: by their names, 2 before 10."""
    path = paths.normalize(path)
    if not paths.is_url(path) and os.path.isdir(path):
        with os.scandir(path) as entries:
            names = [e.name for e in entries if is_image(e.name) and not is_hidden(e.name)]
        return [read_image_files(os.path.join(path, name)) for name in sorted(names, key=_counted)]
    return files.read_bytes(path)


@needs("path")
def open_folder(options: SourceConfig, context: Context) -> FolderSource:
    """The format `folder`; see `folder_source`."""
    return folder_source(one_path(options), options.split, clips=context.num_images > 1)


def folder_source(path: str, split: str = "", clips: bool = False) -> FolderSource:
    """Opens a folder of images.

    Args:
      path: a .csv, .tsv or .jsonl file with a column of images (IMAGE_COLUMNS), whose paths are
        relative to the file, and possibly columns of captions (CAPTION_COLUMNS) and labels
        (LABEL_COLUMNS); rows with the same image are one record. A path may be of a video or of a
        folder of frames, and a cell may hold a list of paths. Or a folder with one such file. Or a
        folder with a folder of images for each class; their names, in order, are those of the
        labels 0, 1, ...
      split: the one to open, of a folder with `train`, `test` and such.
      clips: whether a folder of images within that of a class is one example, the frames of a clip.

    Raises:
      UserError: the path is none of these, or a table cannot be read.
    """
    path = paths.normalize(path)
    if base_name(path).lower().endswith(SUFFIXES):
        return _of_table(path)
    kinds = ", ".join(SUFFIXES)
    if paths.is_url(path):
        raise UserError(
            f"{http.shown(path)} should be a file ({kinds}): only local folders are searched"
        )
    if not os.path.isdir(path):
        raise UserError(
            f"{path} is neither a folder nor a file with one of the endings {kinds}"
            f"{what_reads([path])}"
        )
    with os.scandir(path) as entries:
        names = sorted(e.name for e in entries if not is_hidden(e.name))
    tables = [name for name in names if name.lower().endswith(SUFFIXES)]
    if len(tables) > 1:
        raise UserError(f"{path} holds several tables, {', '.join(tables)}: name one of them")
    if tables:
        return _of_table(os.path.join(path, tables[0]))
    if splits := split_folders(path):
        return _of_split(path, splits, split, clips)
    folders = ClassFolders(path, clips)
    if not len(folders):
        raise UserError(
            f"{path} holds neither a table ({kinds}) nor folders of images, one for each class"
            + what_reads(names)
        )
    return FolderSource(path, _Classes(folders), folders.names)


def _of_table(path: str) -> FolderSource:
    return FolderSource(paths.folder_of(path), _Rows(Table(path, IMAGE_COLUMNS)))


def _of_split(path: str, splits: list[str], split: str, clips: bool) -> FolderSource:
    if split not in splits:
        raise UserError(
            f"{path} holds the splits {', '.join(splits)}, and split={split!r} is none of them; "
            "set `split` to one, or give the folder of one as the path"
        )
    source = folder_source(os.path.join(path, split), "", clips)
    unread = ", ".join(name for name in splits if name != split) or "none"
    text = f"{path} holds splits of a data set: {split} is read, the others ({unread}) are not"
    source.notes = [Note("split", len(splits), text), *source.notes]
    return source


class _Rows:
    """Entries of a table."""

    def __init__(self, table: Table):
        self._table = table
        self.notes = list(_table_notes(table))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Entry:
        rows = self._table.rows(index)
        has_types = not self._table.separator  # otherwise all values are text
        image, *_ = [row.pop(self._table.column, None) for row in rows]
        if not has_types:
            image = _list_or_text(image)
        paths = image if isinstance(image, list) else [image]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise BadExample("bad_record", f"the path of the image is {image!r}")
        captions = [v for row in rows for v in _values(row, CAPTION_COLUMNS, has_types)]
        labels = [v for row in rows for v in _values(row, LABEL_COLUMNS, has_types)]
        labels = [label for label in labels if label is not None]
        if not has_types:
            labels = [_number(label) for label in labels]
            rows = [{name: _value(cell) for name, cell in row.items()} for row in rows]
        labels = [label for i, label in enumerate(labels) if label not in labels[:i]]
        return Entry(image, captions, labels, _joined(rows))

    def part(self, index: int) -> str:
        return self._table.path

    def shards(self) -> list[Shard]:
        return [self._table.shard]


def _table_notes(table: Table) -> Iterator[Note]:
    rows, path = table.row_count, http.shown(table.path)
    columns = [f"images of column {table.column!r}"]
    for what, wanted in (("captions", CAPTION_COLUMNS), ("labels", LABEL_COLUMNS)):
        if name := column_of(table.names, wanted):
            columns.append(f"{what} of {name!r}")
    records = counted(len(table), "records")
    text = f"{path}: {counted(rows, 'rows')}, {records}: {', '.join(columns)}"
    if table.separator:
        text += f", separated by {table.separator!r}"
    yield Note("rows", rows, text)
    for fault, (count, line) in table.faults.items():
        what = counted(count, f"rows {FAULTS[fault]}")
        text = f"{path}: {what}, the first in line {line}"
        yield Note(fault, count, f"{text}; each is a bad_record when it is read", lost=True)


def _values(row: dict[str, Any], columns: Iterable[str], has_types: bool) -> list[Any]:
    """Removes the first of these columns that has values from a row, and returns them.

    Those that are missing are None; there is at least one.
    """
    names = [name for column in columns if (name := column_of(row, [column]))]
    absent = (None, "") if has_types else (None, "", *MISSING_WORDS)
    for name in names:
        value = row[name] if has_types else _list_or_text(row[name])
        values = value if isinstance(value, list) else [value]
        values = [None if v in absent else v for v in values]
        if any(v is not None for v in values):
            del row[name]
            return values
    for name in names[:1]:
        del row[name]
    return [None]


def _list_or_text(text: str | None) -> str | list[str] | None:
    """The list of texts that a cell holds, as JSON or as Python writes it; other texts as they are.

    Lists as numpy writes them are left as text: Python would read `['a' 'b']` as `['ab']`.
    """
    if not text or text[0] != "[" or text[-1] != "]":
        return text
    parsed: Any = None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            parsed = ast.literal_eval(text)
            parsed = parsed if repr(parsed) == text else None
    is_list = isinstance(parsed, list) and all(isinstance(value, str) for value in parsed)
    return parsed if is_list else text


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of all rows of an image: a value that all have, or one for each row."""
    if len(rows) == 1:
        return rows[0]
    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    return {
        name: values[0] if all(value == values[0] for value in values) else RowValues(values)
        for name, values in columns.items()
    }


def _value(cell: str) -> str | int | float | list[str]:
    value = _list_or_text(cell)
    return _number(value) if isinstance(value, str) else value


def _number(text: str) -> str | int | float:
    """A text as a number, if it is one, so that filters can compare it."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Classes:
    """Entries of a folder with a folder for each class."""

    def __init__(self, folders: ClassFolders):
        self._folders = folders
        self.notes = folders.notes

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> Entry:
        path, label = self._folders.example(index)
        name = path.removeprefix(f"{self._folders.names[label]}{os.sep}")
        return Entry(path, [], [label], {"file_name": name})

    def part(self, index: int) -> str:
        return self._folders.part(index)

    def shards(self) -> list[Shard]:
        return self._folders.shards()


def _counted(name: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers in names by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]
