"""Records of several images: the frames of a clip, or a pair.

The image of a record is an image file, a list of image files, or the file of a video in a container
that OpenCV reads.
"""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import images
from coca_jax.data.transforms.image_headers import IMAGE_BRANDS
from coca_jax.patches import Patches

GRAY = 128  # of a blank image

RGB = UInt8[np.ndarray, "_ _ 3"]  # those of one record may differ in size
Encoded = bytes | Sequence[bytes]


def decode_images(image: Encoded, count: int = 1, least_side: int | None = None) -> list[RGB]:
    """Decodes `count` of a record's images, evenly spaced; if it has fewer, some are repeated.

    Args:
      image: of the record.
      count: the number of images to return.
      least_side: see `images.decode`.

    Raises:
      BadExample: one of them cannot be decoded, or there is none.
    """
    return once_each(
        lambda file: images.decode(file, least_side) if isinstance(file, bytes) else file,
        select_images(image, count),
    )


def select_images(image: Encoded, count: int = 1) -> list[bytes | RGB]:
    """Takes `count` of a record's images, evenly spaced; if it has fewer, some are repeated.

    Args:
      image: of the record.
      count: the number of images to return.

    Returns:
      Image files as they are, and frames of videos decoded.

    Raises:
      BadExample: a video cannot be decoded, or there is no image.
    """
    if isinstance(image, bytes):
        return _frames(image, count) if is_video(image) else [image] * count
    if not image:
        raise BadExample("bad_image", "no image")
    return [image[index] for index in evenly_spaced(len(image), count)]


def once_each(function: Callable[[Any], RGB], values: Sequence[Any]) -> list[RGB]:
    """Calls a function with each of the values; with one that is repeated, only once."""
    results = {id(value): function(value) for value in {id(v): v for v in values}.values()}
    return [results[id(value)] for value in values]


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middle of each of `count` equal parts of 0, ..., total - 1."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def is_video(data: bytes) -> bool:
    """Whether a file is a video's container, by its first bytes (MP4, Matroska, AVI, MPEG)."""
    if data[4:8] == b"ftyp":
        return data[8:12] not in IMAGE_BRANDS
    avi = data[:4] == b"RIFF" and data[8:12] == b"AVI "
    return avi or data.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3"))


def stacked(rows: Sequence[RGB | Patches]) -> UInt8[np.ndarray, "..."] | Patches:
    """One image as it is, [h, w, 3] or `Patches`; several of one size as [images, h, w, 3]."""
    return rows[0] if len(rows) == 1 else np.stack(rows)


def side_by_side(batch: UInt8[np.ndarray, "b ..."]) -> UInt8[np.ndarray, "b h w 3"]:
    """Joins the images of each example, [b, images, h, w, 3], to strips for people to look at.

    Between two images there is white, of a sixteenth of their width.
    """
    if batch.ndim == 4:
        return batch
    size, _, height, width, _ = batch.shape
    gap = max(1, width // 16)
    spaced = np.pad(batch, [(0, 0)] * 3 + [(0, gap), (0, 0)], constant_values=255)
    return spaced.swapaxes(1, 2).reshape(size, height, -1, 3)[:, :, :-gap]


def _frames(data: bytes, count: int) -> list[RGB]:
    # OpenCV reads videos from files only (before 4.12).
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(data)
        file.flush()
        claimed = int(_open(file.name).get(cv2.CAP_PROP_FRAME_COUNT))
        frames, total = _read(file.name, evenly_spaced(max(claimed, 1), count))
        # A container may state no count (MPEG program streams), or a wrong one.
        if len(frames) < count or abs(claimed - total) > total // 16:
            frames, _ = _read(file.name, evenly_spaced(total, count))
    if len(frames) < count:
        raise BadExample("bad_image", f"a video of {total} frames, some of which cannot be decoded")
    return frames


def _open(path: str) -> Any:
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not video.isOpened():
        raise BadExample("bad_image", "a video that OpenCV cannot read")
    return video


def _read(path: str, indices: Sequence[int]) -> tuple[list[RGB], int]:
    """The frames of these indices that can be decoded, and the number of frames of the video.

    It is read to its end, because its container may state too few.
    """
    video, frames, index = _open(path), {}, 0
    while video.grab():
        if index in indices:
            ok, frame = video.retrieve()
            if ok:
                frames[index] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        index += 1
    return [frames[i] for i in indices if i in frames], index
