"""An index of a folder's images by their embeddings, kept on disk and updated as files change.

`embeddings-*.f32` has a row for each image that was ever embedded, and only grows; `index.json`
names it and says which of its rows are whose, and is replaced last. So an update that was
interrupted goes on where the last `SAVE_EVERY` images left off, and searching reads what it maps,
not all at once. A new index has a new file, so one that is open keeps its rows. Searching by FAISS
keeps a file of its own next to them.
"""

import hashlib
import json
import os
import pathlib
import re
import stat
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from coca_jax.data.file_names import IMAGE_SUFFIXES, OTHER_IMAGES, is_hidden
from coca_jax.errors import UserError
from coca_jax.image_search.nearest import SEARCHES, forget, map_rows
from coca_jax.inference.sources import Source
from coca_jax.io.files import cache_folder, write_whole
from coca_jax.io.locks import locked
from coca_jax.io.paths import is_url, normalize
from coca_jax.io.stored import Damaged, fits, is_step, left_out, read_json

KINDS = (*IMAGE_SUFFIXES, *OTHER_IMAGES)  # those of OTHER_IMAGES are reported as unreadable
BATCH = 64  # images read at a time
SAVE_EVERY = 1024  # images
Stamp = tuple[int, int]  # time of the last change in ns, size
Embed = Callable[
    [Sequence[pathlib.Path]],
    tuple[Float32[np.ndarray, "b e"] | None, Sequence[UserError | None]],
]


class Listing(NamedTuple):
    """The files below a folder, by relative path."""

    images: dict[str, Stamp]
    unreadable: list[str]  # folders, links and others that are named like images
    hidden: list[str]


def local_folder(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a local folder of images or of an index.

    Raises:
      UserError: it is a URL; images are read from local files, and an index is mapped into memory.
    """
    text = normalize(path)
    if is_url(text):
        raise UserError(f"{text}: images to be searched and their index must be in local folders")
    return pathlib.Path(text)


def list_images(folder: str | os.PathLike) -> Listing:
    """Lists the image files below a folder, sorted; follows links, but enters a folder only once.

    Raises:
      UserError: the folder holds no images.
    """
    listing = Listing({}, [], [])
    _list(os.fspath(folder), "", listing, set())
    if not listing.images and not listing.unreadable:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    ordered = sorted(listing.images, key=lambda name: name.split("/"))
    return listing._replace(images={name: listing.images[name] for name in ordered})


def _list(path: str, name: str, listing: Listing, seen: set[tuple[int, int]]) -> None:
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        if not name:
            raise UserError(f"{path} cannot be searched for images: {error.strerror}") from error
        listing.unreadable.append(name)
        return
    for entry in entries:  # of a link that leads to itself, `is_dir` would fail
        below = f"{name}/{entry.name}" if name else entry.name
        if is_hidden(entry.name):
            listing.hidden.append(below)
        elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            _list(entry.path, below, listing, seen)
        elif entry.name.lower().endswith(KINDS):
            _note(entry, below, listing)


def _note(entry: os.DirEntry, name: str, listing: Listing) -> None:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing
        status = None
    if status is not None and stat.S_ISREG(status.st_mode):
        listing.images[name] = (status.st_mtime_ns, status.st_size)
    else:
        listing.unreadable.append(name)


class ImageIndex:
    """The index of one folder by one model.

    Attributes:
      folder: of the images.
      unreadable: files that are not images or cannot be read, after `update`.
      hidden: how many hidden files and folders were left out, after `update`.
    """

    def __init__(self, path: str | os.PathLike, folder: str | os.PathLike, model: str):
        """Opens an index; if there is none of this model, it is empty until `update`.

        Args:
          path: where it lies, a folder.
          folder: of the images.
          model: an identity that differs between models.

        Raises:
          UserError: one of them is a URL.
        """
        self._path, self.folder = local_folder(path), local_folder(folder)
        self._model, self._said = model, False
        self.unreadable, self.hidden = [], 0
        self._names: dict[int, str] = {}  # of live rows
        self._searches: dict[str, Callable] = {}  # of these
        self._read()

    def __len__(self) -> int:
        return sum(row >= 0 for _, row in self._rows.values())

    def __contains__(self, name: str) -> bool:
        """Whether an image of this path, relative to the folder, can be found."""
        return self._rows.get(name, (None, -1))[1] >= 0

    def update(
        self,
        embed: Embed,
        progress: Callable[[list[str]], Iterable[str]] = lambda names: names,
    ) -> dict[str, int]:
        """Embeds what is new or has changed, and forgets what is gone.

        Args:
          embed: makes embeddings of unit length of the files that are images, and says for each
            file why it is none, or None. Files that an OSError kept from being read, the cause of
            that, are tried again at the next update.
          progress: is given the names to do, and gives them back one by one.

        Returns:
          How many were `added` (changed ones, too), `kept` and `removed`.

        Raises:
          UserError: the folder holds no images, or another process updates the index.
        """
        there, lost, hidden = list_images(self.folder)
        self._lost, self.hidden = lost, len(hidden)  # what is lost grows by what cannot be opened
        if self._read() and there == {name: stamp for name, (stamp, _) in self._rows.items()}:
            counts = {"added": 0, "kept": len(self), "removed": 0}
        else:
            with locked(self._path, "updated"):
                counts = self._bring_up_to(there, embed, progress)
        self._searches = {}
        bad = [name for name, (_, row) in self._rows.items() if row < 0]
        self.unreadable = sorted([*bad, *self._lost])
        return counts

    def _bring_up_to(
        self, there: dict[str, Stamp], embed: Embed, progress: Callable
    ) -> dict[str, int]:
        if self._read():
            os.truncate(self._file, 4 * self._next_row * self._width)  # of an interrupted update
        else:
            self._begin()
        kept = {name: entry for name, entry in self._rows.items() if there.get(name) == entry[0]}
        todo = [name for name in there if name not in kept]
        removed = len(self._rows.keys() - there.keys())
        self._rows, kept = kept, sum(row >= 0 for _, row in kept.values())
        waiting: list[str] = []
        for count, name in enumerate(progress(todo), 1):
            waiting.append(name)
            if len(waiting) == BATCH or count == len(todo):
                self._append(waiting, there, embed)
                waiting = []
            if count % SAVE_EVERY == 0:
                self._save()
        self._save()
        self._stored = map_rows(self._file, self._next_row, self._width)
        return {"added": len(self) - kept, "kept": kept, "removed": removed}

    def search(
        self, query: Float[np.ndarray, "e"], top: int, by: str = "exact"
    ) -> list[tuple[float, pathlib.Path]]:
        """The images most similar to an embedding, with their cosine similarity.

        Args:
          query: of unit length.
          top: how many.
          by: "exact", or "faiss": of what is in the eighth of the lists that are most similar to
            it (`nearest.FaissSearch`).

        Raises:
          UserError: FAISS is asked for and not installed.
        """
        if self._next_row and self._width != len(query):
            raise UserError(
                f"{self._path} holds embeddings of {self._width} numbers, and the model makes "
                f"{len(query)}: remove it, and the next search builds it again"
            )
        if by not in self._searches:
            self._names = {row: name for name, (_, row) in self._rows.items() if row >= 0}
            live = np.array(sorted(self._names), np.int64)
            self._searches[by] = SEARCHES[by](self._file, self._stored, live)
        scores, rows = self._searches[by](np.asarray(query, np.float32), top)
        matches = zip(scores.tolist(), rows.tolist(), strict=True)
        return [(score, self.folder / self._names[row]) for score, row in matches]

    def _append(self, names: Sequence[str], there: dict[str, Stamp], embed: Embed) -> None:
        embeddings, errors = embed([self.folder / name for name in names])
        reasons = dict(zip(names, errors, strict=True))
        good = [name for name in names if reasons[name] is None]
        if good:
            with open(self._file, "ab") as file:
                file.write(np.ascontiguousarray(embeddings, np.float32).tobytes())
            self._width = embeddings.shape[1]
        for name, reason in reasons.items():
            if reason is None:
                self._rows[name] = (there[name], self._next_row)
                self._next_row += 1
            elif isinstance(reason.__cause__, OSError):
                self._lost.append(name)
            else:
                self._rows[name] = (there[name], -1)

    def _read(self) -> bool:
        """Reads the index on disk; returns False, and is empty, if it is not the model's."""
        self._file = self._path / f"embeddings-{uuid.uuid4().hex}.f32"
        self._rows, self._next_row, self._width = {}, 0, 0
        self._stored = map_rows(self._file, 0, 0)
        try:
            content = read_json(self._path / "index.json")
            if "table" not in content:
                raise Damaged("was written by an older version")
            if not _is_index(content):
                raise Damaged("is not what a search writes")
            if (content["model"], content["folder"]) != (self._model, str(self.folder.absolute())):
                return False
            file, rows, width = self._path / content["table"], content["rows"], content["width"]
            if not file.is_file() or file.stat().st_size < 4 * rows * width:
                raise Damaged(f"has more rows than {file.name}")
            self._stored = map_rows(file, rows, width)
        except FileNotFoundError:
            return False
        except Damaged as error:
            if not self._said:
                left_out(self._path / "index.json", f"{error}; it is built again")
            self._said = True
            return False
        self._rows = {n: ((t, s), row) for n, (t, s, row) in content["files"].items()}
        self._file, self._next_row, self._width = file, rows, width
        return True

    def _begin(self) -> None:
        # The index first: it must not name rows that are gone.
        for path in (self._path / "index.json", *self._path.glob("embeddings*.f32")):
            path.unlink(missing_ok=True)
        forget(self._path)
        self._file.touch()

    def _save(self) -> None:
        content = {
            "model": self._model,
            "folder": str(self.folder.absolute()),
            "table": self._file.name,
            "rows": self._next_row,
            "width": self._width,
            "files": {name: [*stamp, row] for name, (stamp, row) in self._rows.items()},
        }
        write_whole(self._path / "index.json", json.dumps(content).encode())


def _is_index(content: dict[str, Any]) -> bool:
    """Whether the content has the types and the valid rows of an index."""
    shape = {"model": str, "folder": str, "table": _is_table, "rows": is_step, "width": is_step}
    return fits(content, shape | {"files": dict}) and all(
        isinstance(entry, list)
        and [type(number) for number in entry] == [int] * 3
        and -1 <= entry[2] < content["rows"]
        for entry in content["files"].values()
    )


def _is_table(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"embeddings-[0-9a-f]{32}\.f32", name))


def default_place(source: Source, folder: str | os.PathLike) -> pathlib.Path:
    """Returns the default path of a folder's index: in the model's folder.

    For a model at a URL it is in the user's cache, because an index is mapped into memory.
    """
    name = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]
    if is_url(str(source.workdir)):
        return cache_folder("search") / source.identity[:16] / name
    return pathlib.Path(source.workdir) / "search" / name
