"""Data sets of a folder for each class, with its images at any depth."""

import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath

import numpy as np

from coca_jax.data.file_names import OTHER_IMAGES, VIDEO_SUFFIXES, is_hidden, is_image
from coca_jax.data.sources.base import Note, Shard
from coca_jax.errors import UserError
from coca_jax.io.messages import cause, counted

# Names of folders that are splits of a data set.
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
STAT_THREADS = 16  # they wait for the file system
_NAMED = 5  # classes or suffixes that a note names


class ClassFolders:
    """Images by class; their paths are kept as one string of bytes.

    Attributes:
      names: of the classes, in order.
      notes: on how the folders were understood.
    """

    def __init__(self, root: str, clips: bool = False):
        """Looks for the images.

        Args:
          root: the folder with the folders of the classes.
          clips: whether a folder of images within that of a class is one example, the frames of a
            clip; otherwise each of its images is one.

        Raises:
          UserError: a folder cannot be read.
        """
        self._root = root
        walk = _Walk(root, clips)
        self.names = walk.classes()
        examples = [sorted(map(os.fsencode, walk.examples(name))) for name in self.names]
        paths = [path for listed in examples for path in listed]
        counts = [len(listed) for listed in examples]
        self._class_ends = np.cumsum(counts, dtype=np.int64)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._paths = b"".join(paths)
        self.notes = [_classes_note(root, dict(zip(self.names, counts, strict=True)))]
        self.notes += walk.notes()

    def __len__(self) -> int:
        return len(self._ends)

    def example(self, index: int) -> tuple[str, int]:
        """The path of an example within the root, and the number of its class."""
        begin = self._ends[index - 1] if index else 0
        return os.fsdecode(self._paths[begin : self._ends[index]]), self._label(index)

    def part(self, index: int) -> str:
        """The folder of the class of an example."""
        return os.path.join(self._root, self.names[self._label(index)])

    def shards(self) -> list[Shard]:
        """A shard for each class, with a checksum of the names and sizes of its files."""
        with ThreadPoolExecutor(STAT_THREADS) as threads:
            return list(threads.map(self._shard, range(len(self.names))))

    def _shard(self, label: int) -> Shard:
        first = self._class_ends[label - 1] if label else 0
        ends = self._ends[first : self._class_ends[label]].tolist()
        begin = int(self._ends[first - 1]) if first else 0
        root = os.path.join(os.fsencode(self._root), b"")
        checksum = total = 0
        for end in ends:  # there may be millions
            path = self._paths[begin:end]
            size = _size(root + path)
            checksum = zlib.crc32(b"%b %d" % (path, size), checksum)
            total, begin = total + size, end
        return Shard(self.names[label], total, len(ends), f"{checksum:08x}")

    def _label(self, index: int) -> int:
        return int(np.searchsorted(self._class_ends, index, side="right"))


class _Walk:
    """Walks through folders, and keeps paths, relative to the root, for the notes."""

    def __init__(self, root: str, clips: bool):
        self._root, self._clips = root, clips
        self._hidden: list[str] = []
        self._deeper: list[str] = []  # images
        self._clip_folders: list[str] = []
        self._loops: list[str] = []
        self._other_files: list[str] = []  # no images
        self._outside: list[str] = []  # images next to the folders of classes

    def classes(self) -> list[str]:
        """The names of the folders in the root, in order."""
        listed = self._listed("")
        self._outside = [name for name, is_folder in listed if not is_folder and is_image(name)]
        return [name for name, is_folder in listed if is_folder]

    def _listed(self, folder: str) -> list[tuple[str, bool]]:
        """Names in a folder, in order, that are not hidden, and whether each is a folder."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                listed = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise UserError(
                f"the folder {error.filename} cannot be read: {cause(error)}"
            ) from error
        hidden = {name for name, _ in listed if is_hidden(name)}
        self._hidden += [os.path.join(folder, name) for name in hidden]
        return [entry for entry in listed if entry[0] not in hidden]

    def examples(self, folder: str, above: Set[tuple[int, int]] = frozenset()) -> Iterator[str]:
        """Paths of the images, videos and clips in a folder of a class, or below it."""
        above = above or {self._identity("")}
        this = self._identity(folder)
        if this in above:  # a link to a folder above
            self._loops.append(folder)
            return
        prefix = os.path.join(folder, "")
        images: list[str] = []
        others: list[tuple[str, bool]] = []
        for name, is_folder in self._listed(folder):
            if not is_folder and is_image(name):
                images.append(prefix + name)
            else:
                others.append((prefix + name, is_folder))
        is_deeper = os.sep in folder
        if images and is_deeper and self._clips:
            self._clip_folders.append(folder)
            yield folder
        else:
            yield from images
            self._deeper += images if is_deeper else []
        for path, is_folder in others:
            if is_folder:
                yield from self.examples(path, above | {this})
            elif path.lower().endswith(VIDEO_SUFFIXES):
                yield path
            else:
                self._other_files.append(path)

    def _identity(self, folder: str) -> tuple[int, int]:
        status = os.stat(os.path.join(self._root, folder))
        return status.st_dev, status.st_ino

    def notes(self) -> Iterator[Note]:
        """Notes on the folders that were walked through."""
        kinds = (
            ("deeper", self._deeper, "images lie deeper than in the folder of a class"),
            ("clips", self._clip_folders, "clips are read from images, a folder per clip"),
            ("hidden", self._hidden, "hidden items are skipped"),
            ("loops", self._loops, "links back to a parent folder are skipped"),
        )
        for kind, paths, what in kinds:
            if paths:
                yield Note(kind, len(paths), f"{counted(len(paths), what)}, such as {min(paths)!r}")
        if self._outside:
            text = counted(len(self._outside), "images lie next to the folders of classes")
            text += f" and not in one, such as {self._outside[0]!r}; move such images into one"
            yield Note("beside", len(self._outside), text, lost=True)
        if self._other_files:
            yield _other_files_note(self._other_files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def split_folders(root: str) -> list[str]:
    """The folders of a root, if all of them have names of splits, such as `train`."""
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if _is_folder(e) and not is_hidden(e.name))
    return names if all(name.lower() in SPLITS for name in names) else []


def _size(path: bytes) -> int:
    """Bytes of a file, or the number of files of a clip; -1: it was deleted since."""
    try:
        status = os.stat(path)
        return len(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else status.st_size
    except OSError:
        return -1


def _classes_note(root: str, counts: dict[str, int]) -> Note:
    empty = [name for name, count in counts.items() if not count]
    sizes = counted(sum(counts.values()), "examples"), counted(len(counts), "classes")
    text = f"{' of '.join(sizes)}, the folders of {root}: "
    text += ", ".join([f"{name} ({n:,})" for name, n in counts.items()][:_NAMED])
    text += ", ..." if len(counts) > _NAMED else ""
    if empty:
        text += f"; {counted(len(empty), 'folders hold')} none: {', '.join(empty[:_NAMED])}"
    return Note("classes", len(counts), text)


def _other_files_note(paths: list[str]) -> Note:
    suffixes = Counter(PurePath(path).suffix.lower() for path in paths)
    named = ", ".join(f"{s or 'without a suffix'} ({n:,})" for s, n in suffixes.most_common(_NAMED))
    what = counted(len(paths), "files are not read")
    text = f"{what}, by suffix: {named}; such as {min(paths)!r}"
    return Note("other_files", len(paths), text, lost=any(s in OTHER_IMAGES for s in suffixes))
