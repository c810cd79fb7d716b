"""A folder's images by their embeddings, kept on disk and brought up to date as files change.

`embeddings.f32` has a row for each image that was ever embedded, and only grows; `index.json` says
which of them are whose, and is replaced last. So an update that was interrupted goes on where the
last `SAVE_EVERY` images left off, and searching reads what it maps, not all at once. Searching by
FAISS keeps a file of its own beside them.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Float32

from coca_jax.errors import UserError
from coca_jax.inference.loading import Checkpoint
from coca_jax.inference.nearest import SEARCHES, forget
from coca_jax.io.files import cache_folder
from coca_jax.io.locks import locked
from coca_jax.io.paths import is_url

KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BATCH = 64  # images read at a time
SAVE_EVERY = 1024  # images
Stamp = tuple[int, int]  # time of the last change in ns, size


def list_images(folder: pathlib.Path) -> dict[str, Stamp]:
    """Image files below a folder, by path relative to it, in order.

    Raises:
      UserError: it holds none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in KINDS and p.is_file())
    if not found:
        raise UserError(f"{folder} holds no images ({', '.join(KINDS)})")
    stats = ((path, path.stat()) for path in found)
    return {p.relative_to(folder).as_posix(): (s.st_mtime_ns, s.st_size) for p, s in stats}


class ImageIndex:
    """The index of one folder by one model.

    Attributes:
      unreadable: files that are no images, after `update`.
    """

    def __init__(self, path: str | os.PathLike, folder: str | os.PathLike, model: str):
        """Opens it; what is not there, or another model's, is empty until `update` begins it.

        Args:
          path: where it lies, a folder.
          folder: of the images.
          model: what tells a model from others.
        """
        self._path, self._folder = pathlib.Path(path), pathlib.Path(folder)
        self._model, self.unreadable = model, []
        self._names: dict[int, str] = {}  # of live rows
        self._searches: dict[str, Callable] = {}  # of these
        self._read()

    def __len__(self) -> int:
        return sum(row >= 0 for _, row in self._rows.values())

    def update(
        self,
        embed: Callable[[Sequence[pathlib.Path]], Float32[np.ndarray, "b e"]],
        progress: Callable[[list[str]], Iterable[str]] = lambda names: names,
    ) -> dict[str, int]:
        """Embeds what is new or has changed, and forgets what is gone.

        Args:
          embed: makes embeddings of unit length; a UserError of it for a single file means that
            the file is no image.
          progress: is given the names to do, and gives them back one by one.

        Returns:
          How many were `added` (changed ones, too), `kept` and `removed`.

        Raises:
          UserError: the folder holds no images, or another process updates the index.
        """
        there = list_images(self._folder)
        if self._read() and there == {name: stamp for name, (stamp, _) in self._rows.items()}:
            counts = {"added": 0, "kept": len(there), "removed": 0}
        else:
            with locked(self._path, "updated"):
                counts = self._bring_up_to(there, embed, progress)
        self._searches = {}
        self.unreadable = [name for name, (_, row) in self._rows.items() if row < 0]
        return counts

    def _bring_up_to(
        self, there: dict[str, Stamp], embed: Callable, progress: Callable
    ) -> dict[str, int]:
        if self._read():
            os.truncate(self._file, 4 * self._next_row * self._width)  # of an interrupted update
        else:
            self._begin()
        kept = {n: known for n, known in self._rows.items() if there.get(n) == known[0]}
        todo = [name for name in there if name not in kept]
        removed = len(self._rows.keys() - there.keys())
        self._rows = kept
        waiting: list[str] = []
        for count, name in enumerate(progress(todo), 1):
            waiting.append(name)
            if len(waiting) == BATCH or count == len(todo):
                self._append(waiting, there, embed)
                waiting = []
            if count % SAVE_EVERY == 0:
                self._save()
        self._save()
        return {"added": len(todo), "kept": len(there) - len(todo), "removed": removed}

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
        if by not in self._searches:
            self._names = {row: name for name, (_, row) in self._rows.items() if row >= 0}
            live = np.array(sorted(self._names), np.int64)
            self._searches[by] = SEARCHES[by](self._path, self._stored(len(query)), live)
        scores, rows = self._searches[by](np.asarray(query, np.float32), top)
        found = zip(scores.tolist(), rows.tolist(), strict=True)
        return [(score, self._folder / self._names[row]) for score, row in found]

    def _append(self, names: Sequence[str], there: dict[str, Stamp], embed: Callable) -> None:
        try:
            embeddings, good = embed([self._folder / name for name in names]), list(names)
        except UserError:  # some file of these
            embeddings, good = self._one_by_one(names, embed)
        first = self._next_row
        with open(self._file, "ab") as file:
            file.write(np.ascontiguousarray(embeddings, np.float32).tobytes())
        self._next_row += len(good)
        places = {name: first + i for i, name in enumerate(good)}
        self._rows |= {name: (there[name], places.get(name, -1)) for name in names}
        if len(good):
            self._width = embeddings.shape[1]

    def _one_by_one(
        self, names: Sequence[str], embed: Callable
    ) -> tuple[Float32[np.ndarray, "b e"], list[str]]:
        found, good = [], []
        for name in names:
            try:
                found.append(embed([self._folder / name]))
                good.append(name)
            except UserError:
                continue
        return (np.concatenate(found) if found else np.zeros((0, 0), np.float32)), good

    @property
    def _file(self) -> pathlib.Path:
        return self._path / "embeddings.f32"

    def _stored(self, width: int) -> Float32[np.ndarray, "n e"]:
        if not self._next_row:
            return np.zeros((0, width), np.float32)
        return np.memmap(self._file, np.float32, "r", shape=(self._next_row, width))

    def _read(self) -> bool:
        """Takes over what is on disk; False, and nothing, if that is no index of this model's."""
        self._rows, self._next_row, self._width = {}, 0, 0
        try:
            found = json.loads((self._path / "index.json").read_text())
            known = (found["model"], found["folder"]) == (self._model, str(self._folder.absolute()))
            size = 4 * found["rows"] * found["width"]
            if not known or self._file.stat().st_size < size:
                return False
            self._rows = {n: ((t, s), row) for n, (t, s, row) in found["files"].items()}
            self._next_row, self._width = found["rows"], found["width"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _begin(self) -> None:
        # First, or the rows of another model would pass for this one's after an interruption.
        (self._path / "index.json").unlink(missing_ok=True)
        forget(self._path)
        self._file.write_bytes(b"")

    def _save(self) -> None:
        content = {
            "model": self._model,
            "folder": str(self._folder.absolute()),
            "rows": self._next_row,
            "width": self._width,
            "files": {name: [*stamp, row] for name, (stamp, row) in self._rows.items()},
        }
        partial = self._path / "index.json.partial"
        partial.write_text(json.dumps(content))
        partial.replace(self._path / "index.json")


def default_place(checkpoint: Checkpoint, folder: str | os.PathLike) -> pathlib.Path:
    """Where the index of a folder is unless it is given: in the model's folder.

    For a model at a URL it is in the user's own cache, since an index is mapped into memory.
    """
    name = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:16]
    if is_url(str(checkpoint.workdir)):
        return cache_folder("search") / checkpoint.identity[:16] / name
    return pathlib.Path(checkpoint.workdir) / "search" / name
