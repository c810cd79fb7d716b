"""A folder of images, with or without folders in it, as a source."""

import zlib
from collections.abc import Sequence

from coca_jax.data.sources.base import Note, Record, Shard, base_name
from coca_jax.image_search.image_index import list_images
from coca_jax.io import files, paths
from coca_jax.io.messages import counted


class ImagesSource:
    """The images below a local folder that `coca search --images` lists; without texts."""

    class_names: Sequence[str] = ()

    def __init__(self, path: str):
        """Lists the images.

        Args:
          path: of the folder.

        Raises:
          UserError: it holds no images.
        """
        listing = list_images(path)
        self._path, self._images = path, listing.images
        self._names = list(listing.images)
        self.notes = [
            Note(kind, len(names), f"{path}: {counted(len(names), what)}, such as {names[0]}", lost)
            for kind, names, what, lost in (
                ("unreadable", listing.unreadable, "items cannot be read", True),
                ("hidden", listing.hidden, "hidden items are skipped", False),
            )
            if names
        ]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        """Reads an image; its key is its path in the folder."""
        name = self._names[index]
        image = files.read_bytes(paths.join(self._path, name))
        return {
            "key": name,
            "image": image,
            "captions": [],
            "label": -1,
            "labels": [],
            "fields": {},
        }

    def shard(self, index: int) -> str:
        """The folder."""
        del index
        return self._path

    def shards(self) -> list[Shard]:
        """The folder, with a checksum of the names and sizes of its images."""
        checksum = 0
        for name in self._names:
            content = f"{name} {self._images[name][1]}"
            checksum = zlib.crc32(content.encode("utf-8", "surrogateescape"), checksum)
        total = sum(size for _, size in self._images.values())
        return [Shard(base_name(self._path), total, len(self._names), f"{checksum:08x}")]
