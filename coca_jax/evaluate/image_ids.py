"""Groups records by their image: by its id or, without an id, by equal bytes.

Data sets with several captions an image have one record an image, or one record a caption.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from coca_jax.errors import UserError
from coca_jax.patches import Images, stack

# Of a record, the first that is there: names of an image's id, in COCO's and Karpathy's files, in
# TFDS and in files of questions. `id` and `key` are as often those of the record.
ID_FIELDS = ("image_id", "cocoid", "image/id", "imgid", "img_id")


class ImageIds:
    """Numbers the images of batches of records, from 0, in the order of their first records."""

    def __init__(self):
        self._images: dict[Any, int] = {}  # by what records of one image have in common
        self._ids: list[int | str | None] = []  # of each image; None: it has none
        self._places: list[int] = []  # of the first record of each image
        self._digests: list[bytes | None] = []  # of the bytes of that record
        self._seen: set[bytes] = set()
        self._records = 0
        self._alike = 0  # images with the bytes of an earlier one, and not its id
        self._unlike = 0  # records with the id of an earlier one, and other bytes

    def add(self, batch: dict[str, Any]) -> list[int]:
        """The number of each record's image.

        Args:
          batch: of records; their `fields`, `digest` (of the bytes) and `index` (in the data set)
            may be absent.
        """
        size = len(batch["image"])
        places = batch.get("index", range(self._records, self._records + size))
        rows = zip(
            batch.get("fields", [{}] * size),
            batch.get("digest", [None] * size),
            places,
            strict=True,
        )
        self._records += size
        return [self._add(id_of(fields), digest, place) for fields, digest, place in rows]

    def _add(self, own_id: int | str | None, digest: bytes | None, place: int) -> int:
        of_id = None if own_id is None else str(own_id)  # 7 and "7" are one id
        key = next(one for one in (of_id, digest, place) if one is not None)
        number = self._images.setdefault(key, len(self._images))
        if number == len(self._ids):
            self._ids.append(own_id)
            self._places.append(place)
            self._digests.append(digest)
            self._alike += digest is not None and digest in self._seen
        else:
            self._unlike += digest != self._digests[number]
        if digest is not None:
            self._seen.add(digest)
        return number

    def ids(self) -> list[int | str]:
        """The id of each image; of those without one, the number of its first record."""
        taken = {str(one) for one in self._ids if one is not None}
        numbers = [f"record {p}" if str(p) in taken else p for p in self._places]
        pairs = zip(self._ids, numbers, strict=True)
        return [number if own is None else own for own, number in pairs]

    def check(self) -> None:
        """Says on stderr where ids and bytes disagree.

        Raises:
          UserError: all records have one id, and not the same bytes.
        """
        if len(self._ids) == 1 and self._unlike:
            raise UserError(
                f"all {self._records:,} records have the image id {self._ids[0]!r}, and not the "
                f"same bytes: the first of {', '.join(ID_FIELDS)} should be an id of the image"
            )
        if self._alike:
            print(
                f"warning: {self._alike:,} of {len(self._ids):,} images are equal byte for byte to "
                "another one, and have not its id: each counts as wrong for the texts of the other",
                file=sys.stderr,
            )
        if self._unlike:
            print(
                f"warning: {self._unlike:,} of {self._records:,} records have the image id of "
                "another record, and other bytes: they count as one image, the first of them",
                file=sys.stderr,
            )


class UniqueImages:
    """The images of batches of records, each once, with the captions of all its records.

    Attributes:
      ids: of the images that were given out.
      captions: of each of these; complete at the end.
      bad_images: how many could not be read.
    """

    def __init__(self, batches: Iterable[dict[str, Any]]):
        self._batches = batches
        self.ids, self.captions, self.bad_images = ImageIds(), [], 0

    def __iter__(self) -> Iterator[Images]:
        """The pixels, in batches as large as the first one."""
        size, kept = 0, []
        for batch in self._batches:
            size = size or len(batch["image"])
            self.bad_images += batch.get("bad_image", 0)
            rows = zip(self.ids.add(batch), batch["image"], batch["captions"], strict=True)
            for number, image, texts in rows:
                if number == len(self.captions):
                    self.captions.append([])
                    kept.append(image)
                self.captions[number] += texts
            while len(kept) >= size:
                yield stack(kept[:size])
                kept = kept[size:]
        if kept:
            yield stack(kept)


def id_of(fields: dict[str, Any]) -> int | str | None:
    """The id of a record's image; None: it has none."""
    for name in ID_FIELDS:
        value = fields.get(name)
        if isinstance(value, float) and value.is_integer():  # as tables with gaps have them
            value = int(value)
        if (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, str) and value.strip()
        ):
            return value
    return None


def grouped(captions: Sequence[Sequence[str]], images: Sequence[int]) -> list[list[str]]:
    """The captions of each image.

    Args:
      captions: of each record.
      images: the number of each record's image (`ImageIds.add`).
    """
    merged: list[list[str]] = [[] for _ in range(max(images, default=-1) + 1)]
    for texts, image in zip(captions, images, strict=True):
        merged[image] += texts
    return merged
