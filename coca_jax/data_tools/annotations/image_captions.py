"""Reads captions of images: COCO's own files, and Karpathy's for COCO and Flickr30K."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, reject_ids
from coca_jax.errors import UserError
from coca_jax.io.messages import duplicates


class Annotated(NamedTuple):
    """An image and its captions."""

    file: str  # its path within the folder of images; empty if the annotation file has none
    captions: list[str]


def captions_of(path: str | os.PathLike, content: Any, split: str = "") -> dict[Any, Annotated]:
    """Returns the captions of each image, by the image's id.

    Args:
      path: the file's path, for messages.
      content: the content of a JSON file in COCO's format (`images`, and `annotations` with `id`,
        `image_id` and `caption`) or in Karpathy's (`images` with `sentences`).
      split: a split of Karpathy's file, such as `test`; empty: all. `train` includes `restval`.

    Raises:
      UserError: the content has another format, a duplicate id, or no captions of the split.
    """
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{path} has no `images`: it is not a file of COCO's or Karpathy's")
    if "annotations" in content:
        if split:
            raise UserError(f"{path} is a file of COCO's own, which has no split {split!r}")
        (annotations,) = fields(str(path), content, annotations=list)
        annotated = _of_coco(path, images, annotations)
    else:
        annotated = _of_karpathy(path, images, split)
    if not annotated:
        raise UserError(f"{path} has no captions" + (f" of split {split!r}" if split else ""))
    return annotated


def caption_rows(path: str | os.PathLike, content: Any, split: str = "") -> Rows:
    """Returns a row for each image that has captions; `captions_of` describes the arguments.

    Raises:
      UserError: `captions_of` raises it, or an image has no file name.
    """
    annotated = captions_of(path, content, split)
    unnamed = (image for image, entry in annotated.items() if not entry.file)
    reject_ids(path, "of images have no file name", unnamed)
    return Rows(
        [
            {"image": entry.file, "image_id": image, "captions": entry.captions}
            for image, entry in annotated.items()
        ]
    )


def _of_coco(path: Any, images: Sequence[Any], rows: Sequence[Any]) -> dict[Any, Annotated]:
    ids = [fields(number_of(path, i, "images"), row, id=Id)[0] for i, row in enumerate(images)]
    reject_ids(path, "of `images` are duplicated", duplicates(ids))
    annotations = [
        fields(number_of(path, i, "annotations"), row, id=Id, image_id=Id, caption=str)
        for i, row in enumerate(rows)
    ]
    reject_ids(path, "of `annotations` are duplicated", duplicates(row[0] for row in annotations))
    unlisted = {row[1] for row in annotations} - set(ids)
    reject_ids(path, "of images are annotated but not listed", unlisted)
    names = {
        image: _text(number_of(path, i, "images"), row, "file_name")
        for i, (image, row) in enumerate(zip(ids, images, strict=True))
    }
    annotated: dict[Any, Annotated] = {}
    for _, image, caption in annotations:
        annotated.setdefault(image, Annotated(names[image], [])).captions.append(caption)
    return annotated


def _of_karpathy(path: Any, images: Sequence[Any], split: str) -> dict[Any, Annotated]:
    # Flickr30K's images have no ids but Karpathy's.
    has_ids = all(isinstance(row, dict) and "cocoid" in row for row in images)
    key = "cocoid" if has_ids else "imgid"
    annotated, ids = {}, []
    for i, row in enumerate(images):
        where = number_of(path, i, "images")
        image, own, sentences = fields(where, row, **{key: Id}, split=str, sentences=list)
        ids.append(image)
        if split in ("", own) or (split == "train" and own == "restval"):
            file = os.path.join(_text(where, row, "filepath"), _text(where, row, "filename"))
            captions = [
                fields(number_of(path, n, f"sentences of image {image}"), sentence, raw=str)[0]
                for n, sentence in enumerate(sentences)
            ]
            annotated[image] = Annotated(file, captions)
    reject_ids(path, "of `images` are duplicated", duplicates(ids))
    return annotated


def _text(where: str, row: dict[str, Any], name: str) -> str:
    """The text that a row has under a name; empty if it has none."""
    return fields(where, {name: "", **row}, **{name: str})[0]
