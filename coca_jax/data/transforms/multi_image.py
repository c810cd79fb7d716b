"""Records of several pictures: the frames of a clip, or a pair of images.

What a record holds as its image is one of: an image file; a list of them; the file of a video, in
a container that OpenCV reads.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import images

_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
GRAY = 128  # of a picture that shows nothing

Picture = UInt8[np.ndarray, "_ _ 3"]  # several may be of different sizes
Encoded = bytes | Sequence[bytes]


def decode_images(image: Encoded, count: int = 1, least_side: int | None = None) -> list[Picture]:
    """Decodes `count` of a record's pictures, evenly spaced; of fewer, some come repeatedly.

    Args:
      image: what the record holds.
      count: how many are wanted.
      least_side: as of `images.decode`.

    Raises:
      BadExample: one of them cannot be decoded, or there is none.
    """
    if isinstance(image, bytes):
        if is_video(image):
            return _frames(image, count)
        return [images.decode(image, least_side)] * count
    if not image:
        raise BadExample("bad_image", "no picture")
    places = evenly_spaced(len(image), count)
    decoded = {place: images.decode(image[place], least_side) for place in set(places)}
    return [decoded[place] for place in places]


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middle of each of `count` equal parts of 0, ..., total - 1."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def is_video(data: bytes) -> bool:
    """Whether a file is a video's container, by its first bytes (MP4, Matroska, AVI, MPEG)."""
    if data[4:8] == b"ftyp":
        return data[8:12] not in _IMAGE_BRANDS
    avi = data[:4] == b"RIFF" and data[8:12] == b"AVI "
    return avi or data.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3"))


def stacked(rows: Sequence[Picture]) -> UInt8[np.ndarray, "..."]:
    """One picture as it is, [h, w, 3]; several of one size as [pictures, h, w, 3]."""
    return rows[0] if len(rows) == 1 else np.stack(rows)


def side_by_side(batch: UInt8[np.ndarray, "b ..."]) -> UInt8[np.ndarray, "b h w 3"]:
    """Examples of several pictures [b, pictures, h, w, 3] as strips, to be looked at.

    White is between two pictures, a sixteenth of their width.
    """
    if batch.ndim == 4:
        return batch
    size, _, height, width, _ = batch.shape
    gap = max(1, width // 16)
    spaced = np.pad(batch, [(0, 0)] * 3 + [(0, gap), (0, 0)], constant_values=255)
    return spaced.swapaxes(1, 2).reshape(size, height, -1, 3)[:, :, :-gap]


def _frames(data: bytes, count: int) -> list[Picture]:
    # OpenCV reads videos from files only (before 4.12).
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(data)
        file.flush()
        claimed = int(_open(file.name).get(cv2.CAP_PROP_FRAME_COUNT))
        found, total = _read(file.name, evenly_spaced(max(claimed, 1), count))
        # A container may know no count (MPEG programme streams), or one that is far off.
        if len(found) < count or abs(claimed - total) > total // 16:
            found, _ = _read(file.name, evenly_spaced(total, count))
    if len(found) < count:
        raise BadExample("bad_image", f"a video of {total} frames, some of which cannot be decoded")
    return found


def _open(path: str) -> Any:
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not video.isOpened():
        raise BadExample("bad_image", "a video that OpenCV cannot read")
    return video


def _read(path: str, places: Sequence[int]) -> tuple[list[Picture], int]:
    """The frames at these places, as far as they can be decoded, and how many the video has.

    It is read to its end, because its container may claim too few.
    """
    video, found, at = _open(path), {}, 0
    while video.grab():
        if at in places:
            ok, frame = video.retrieve()
            if ok:
                found[at] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        at += 1
    return [found[place] for place in places if place in found], at
