"""Captions of images: COCO's own files, and Karpathy's of COCO and Flickr30K."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, refuse, twice
from coca_jax.errors import UserError


class Annotated(NamedTuple):
    """An image of a file of captions."""

    file: str  # its path within the folder of images; empty if the file does not say
    captions: list[str]


def captions_of(path: str | os.PathLike, content: Any, split: str = "") -> dict[Any, Annotated]:
    """Captions of each image, by its id.

    Args:
      path: of the file, for messages.
      content: of a JSON file as COCO's own (`images`, and `annotations` with `id`, `image_id` and
        `caption`), or as Karpathy's of COCO and Flickr30K (`images` with `sentences`).
      split: of Karpathy's file, such as `test`; empty: all of it. `train` has `restval`, too.

    Raises:
      UserError: it is neither, an id is there twice, or no image is left.
    """
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{path} has no `images`: it is no file of COCO's or Karpathy's")
    if "annotations" in content:
        if split:
            raise UserError(f"{path} is a file of COCO's own, which has no split {split!r}")
        (annotations,) = fields(str(path), content, annotations=list)
        found = _of_coco(path, images, annotations)
    else:
        found = _of_karpathy(path, images, split)
    if not found:
        raise UserError(f"{path} has no captions" + (f" of split {split!r}" if split else ""))
    return found


def caption_rows(path: str | os.PathLike, content: Any, split: str = "") -> Rows:
    """A row for each image that has captions.

    Raises:
      UserError: as `captions_of`, or the file does not say where an image is.
    """
    found = captions_of(path, content, split)
    nowhere = (image for image, entry in found.items() if not entry.file)
    refuse(path, "of images have no name of a file", nowhere)
    return Rows(
        [
            {"image": entry.file, "image_id": image, "captions": entry.captions}
            for image, entry in found.items()
        ]
    )


def _of_coco(path: Any, images: Sequence[Any], rows: Sequence[Any]) -> dict[Any, Annotated]:
    known = [fields(number_of(path, i, "images"), row, id=Id)[0] for i, row in enumerate(images)]
    refuse(path, "of `images` are there twice", twice(known))
    annotations = [
        fields(number_of(path, i, "annotations"), row, id=Id, image_id=Id, caption=str)
        for i, row in enumerate(rows)
    ]
    refuse(path, "of `annotations` are there twice", twice(row[0] for row in annotations))
    unlisted = {row[1] for row in annotations} - set(known)
    refuse(path, "of images are annotated and not listed", unlisted)
    names = {
        image: _text(number_of(path, i, "images"), row, "file_name")
        for i, (image, row) in enumerate(zip(known, images, strict=True))
    }
    found: dict[Any, Annotated] = {}
    for _, image, caption in annotations:
        found.setdefault(image, Annotated(names[image], [])).captions.append(caption)
    return found


def _of_karpathy(path: Any, images: Sequence[Any], split: str) -> dict[Any, Annotated]:
    # Flickr30K has no ids of its own.
    has_ids = all(isinstance(row, dict) and "cocoid" in row for row in images)
    key = "cocoid" if has_ids else "imgid"
    found, ids = {}, []
    for i, row in enumerate(images):
        where = number_of(path, i, "images")
        image, of, sentences = fields(where, row, **{key: Id}, split=str, sentences=list)
        ids.append(image)
        if split in ("", of) or (split == "train" and of == "restval"):
            file = os.path.join(_text(where, row, "filepath"), _text(where, row, "filename"))
            captions = [
                fields(number_of(path, n, f"sentences of image {image}"), sentence, raw=str)[0]
                for n, sentence in enumerate(sentences)
            ]
            found[image] = Annotated(file, captions)
    refuse(path, "of `images` are there twice", twice(ids))
    return found


def _text(where: str, row: dict[str, Any], name: str) -> str:
    """What a row has under a name that it may lack."""
    return fields(where, {name: "", **row}, **{name: str})[0]
