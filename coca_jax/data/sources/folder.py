"""Images in files of their own: listed in a table with captions, or in a folder for each class."""

import os
import re
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from coca_jax.data.bad import BadExample
from coca_jax.data.clips import VIDEO_SUFFIXES
from coca_jax.data.sources import tables
from coca_jax.data.sources.base import Note, Record, Shard, to_labels
from coca_jax.errors import UserError
from coca_jax.io import files

# Columns of a table; the first that is there is taken.
IMAGE_COLUMNS = (
    *("image", "images", "video", "frames"),
    *("file_name", "filename", "filepath", "path"),
)
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
LABEL_COLUMNS = ("labels", "label")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

STAT_THREADS = 16  # which wait for the file system

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class Entry(NamedTuple):
    """What a folder says of an image."""

    image: str | list[str]  # its path within the folder, or another; or those of several
    captions: list[str]
    labels: list[str | int]
    fields: dict[str, Any]


class FolderSource:
    """Images that lie in a folder as files, each opened when it is asked for."""

    def __init__(self, root: str, entries: "_Rows | _Classes", class_names: Iterable[str] = ()):
        """Names the images.

        Args:
          root: the folder that paths of images are relative to, local or a URL.
          entries: what is known of the images.
          class_names: of the integer labels.
        """
        self._root, self._entries, self.class_names = root, entries, list(class_names)
        self.notes: list[Note] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        entry = self._entries[index]
        several = isinstance(entry.image, list)
        image = [self._read(path) for path in entry.image] if several else self._read(entry.image)
        label, labels = to_labels(entry.labels, self.class_names)
        return {
            "image": image,
            "captions": entry.captions,
            "label": label,
            "labels": labels,
            "fields": entry.fields,
        }

    def _read(self, path: str) -> bytes | list[bytes]:
        return read_pictures(path if files.is_url(path) else os.path.join(self._root, path))

    def shard(self, index: int) -> str:
        """The table, or the folder of the class, in which a record is."""
        return self._entries.part(index)

    def shards(self) -> list[Shard]:
        """The table, not the images that it names; or the folders of the classes."""
        return self._entries.shards()


def read_pictures(path: str) -> bytes | list[bytes]:
    """A file, or the image files of a folder of frames: by their names, 2 before 10."""
    if not files.is_url(path) and os.path.isdir(path):
        names = [e.name for e in os.scandir(path) if _is_named(e.name, IMAGE_SUFFIXES)]
        return [read_pictures(os.path.join(path, name)) for name in sorted(names, key=_counted)]
    with files.open_binary(path) as file:
        return file.read()


def folder_source(path: str) -> FolderSource:
    """Opens a folder of images.

    Args:
      path: a .csv, .tsv or .jsonl file with a column of images, whose paths are relative to the
        file (IMAGE_COLUMNS), and maybe of captions (CAPTION_COLUMNS) and labels (LABEL_COLUMNS);
        several rows of an image are one record. A path may be that of a video or of a folder of
        frames, and in .jsonl a list of paths. Or a folder with one such file; or with a folder
        of images for each class, whose names, in order, are those of the labels 0, 1, ...

    Raises:
      UserError: there is nothing of that kind, or a table that cannot be read.
    """
    if path.endswith(tables.SUFFIXES):
        return _of_table(path)
    kinds = ", ".join(tables.SUFFIXES)
    if files.is_url(path):
        raise UserError(f"{path} should be a file ({kinds}): only local folders are searched")
    if not os.path.isdir(path):
        raise UserError(f"{path} is neither a folder nor a file with one of the endings {kinds}")
    found = sorted(e.name for e in os.scandir(path) if e.name.endswith(tables.SUFFIXES))
    if len(found) > 1:
        raise UserError(f"{path} holds several tables, {', '.join(found)}: name one of them")
    if found:
        return _of_table(os.path.join(path, found[0]))
    classes = _Classes(path)
    if not len(classes):
        raise UserError(
            f"{path} holds neither a table ({kinds}) nor folders of images, one for each class"
        )
    return FolderSource(path, classes, classes.names)


def _of_table(path: str) -> FolderSource:
    return FolderSource(os.path.dirname(path), _Rows(tables.Table(path, IMAGE_COLUMNS)))


class _Rows:
    """Entries of a table."""

    def __init__(self, table: tables.Table):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Entry:
        rows = self._table.rows(index)
        image = rows[0].pop(self._table.column, None)
        paths = image if isinstance(image, list) else [image]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise BadExample("bad_record", f"the path of the image is {image!r}")
        captions = [str(v) for row in rows for v in _listed(row, CAPTION_COLUMNS)]
        labels = [v for row in rows for v in _listed(row, LABEL_COLUMNS)]
        fields = rows[0]
        if not self._table.has_types:
            labels = [_number(label) for label in labels]
            fields = {name: _number(value) for name, value in fields.items()}
        return Entry(image, captions, list(dict.fromkeys(labels)), fields)

    def part(self, index: int) -> str:
        return self._table.path

    def shards(self) -> list[Shard]:
        return [self._table.shard]


def _listed(row: dict[str, Any], columns: Iterable[str]) -> list[Any]:
    """Takes out of a row the value or values of the first of these columns that it has."""
    value = next((row.pop(column) for column in columns if column in row), None)
    return [v for v in (value if isinstance(value, list) else [value]) if v not in (None, "")]


def _number(text: str) -> str | int | float:
    """The number that a text is, if it is one, so that it can be compared with others."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Classes:
    """Entries of a folder with a folder for each class; names of files are kept as one string.

    A folder of images within that of a class is one entry: the frames of a clip.
    """

    def __init__(self, folder: str):
        self._folder = folder
        folders = (e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
        self.names = sorted(folders)
        listed = [_examples(os.path.join(folder, name)) for name in self.names]
        names = [name for images in listed for name in images]
        self._class_ends = np.cumsum([len(images) for images in listed], dtype=np.int64)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._files = b"".join(names)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Entry:
        begin = self._ends[index - 1] if index else 0
        label = self._label(index)
        name = os.fsdecode(self._files[begin : self._ends[index]])
        return Entry(os.path.join(self.names[label], name), [], [label], {"file_name": name})

    def part(self, index: int) -> str:
        return os.path.join(self._folder, self.names[self._label(index)])

    def shards(self) -> list[Shard]:
        """The classes, by names and sizes of their files."""
        with ThreadPoolExecutor(STAT_THREADS) as threads:
            return list(threads.map(self._shard, range(len(self.names))))

    def _shard(self, label: int) -> Shard:
        begin = self._class_ends[label - 1] if label else 0
        checksum = total = 0
        for index in range(begin, self._class_ends[label]):
            image = self[index].image
            size = _size(os.path.join(self._folder, image))
            checksum = zlib.crc32(b"%b %d" % (os.fsencode(image), size), checksum)
            total += size
        count = int(self._class_ends[label] - begin)
        return Shard(self.names[label], total, count, f"{checksum:08x}")

    def _label(self, index: int) -> int:
        return int(np.searchsorted(self._class_ends, index, side="right"))


def _size(path: str) -> int:
    """Bytes of a file, or the number of files of a clip; -1: it has gone since."""
    try:
        return len(os.listdir(path)) if os.path.isdir(path) else os.stat(path).st_size
    except OSError:
        return -1


def _examples(folder: str) -> list[bytes]:
    """Images, videos and folders of frames in a class's folder."""
    found = [
        entry.name
        for entry in os.scandir(folder)
        if (
            any(_is_named(e.name, IMAGE_SUFFIXES) for e in os.scandir(entry.path))
            if entry.is_dir() and not entry.name.startswith(".")
            else _is_named(entry.name, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        )
    ]
    return sorted(map(os.fsencode, found))


def _counted(name: str) -> list[tuple[int, str]]:
    """Orders numbers in names by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def _is_named(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)
