"""JPEG files: their headers, and decoding of their upper rows and at a part of their size.

simplejpeg and OpenCV both contain libjpeg-turbo and give the same pixels. OpenCV decodes every kind
of JPEG, turns it upright, and finds that data is missing. simplejpeg decodes at 1 / factor of the
size into memory that is used again, and accepts files with fewer rows than they contain.
"""

import re
import struct
import threading
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms.image_headers import orientation

START = b"\xff\xd8\xff"
END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables and a reserved one
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # nothing follows them
_SCAN, _APP1, _PROGRESSIVE = 0xDA, 0xE1, 0xC2
_LARGEST_SCRATCH = 2**24  # bytes that each thread keeps

_scratch = threading.local()


class Header(NamedTuple):
    """What the header of a JPEG file says.

    Attributes:
      height, width: of the image as it is stored, before any turn by EXIF.
      frame: the offset of the frame's length; its precision and its size follow.
      is_plain: whether it is stored upright, with 8 bits a channel, in gray or three colors, and
        has an end. Without one rows may be missing, which simplejpeg would make gray.
      is_sequential: whether its rows are stored one after another: in one scan, from the top down.
    """

    height: int
    width: int
    frame: int
    is_plain: bool
    is_sequential: bool


def read_header(data: bytes) -> Header:
    """Reads the header of a JPEG file, as libjpeg does.

    Raises:
      BadExample: no frame is found, which says how large the image is.
    """
    at, kind, frame, upright = 2, 0, 0, True
    while marker := _MARKER.search(data, at):
        code, at = marker[1][0], marker.end()
        if code in _FRAMES and not frame:
            kind, frame = code, at
        if frame and code == _SCAN:
            return _header(data, kind, frame, at, upright)
        if code not in _BARE:
            end = at + int.from_bytes(data[at : at + 2])
            upright &= code != _APP1 or orientation(data[at + 2 : end]) == 1
            at = end
    if not frame:
        raise BadExample("bad_image", "a JPEG without size")
    return _header(data, kind, frame, 0, upright)


def _header(data: bytes, kind: int, frame: int, scan: int, upright: bool) -> Header:
    height, width = struct.unpack_from(">HH", data, frame + 3)
    precision, components = data[frame + 2], data[frame + 7 : frame + 8]
    plain = upright and kind in _HUFFMAN_FRAMES and precision == 8 and components in (b"\1", b"\3")
    plain &= scan > 0 and data.rfind(END, scan) > 0
    sequential = kind != _PROGRESSIVE and data[scan + 2 : scan + 3] == components
    return Header(height, width, frame, plain, sequential)


def decode_rows(
    data: bytes, header: Header, stop: int, factor: int
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decodes the rows of a plain JPEG above `stop`, which are the same as in the whole image.

    Args:
      data: the file.
      header: of the file.
      stop: the first row of the image that is not needed.
      factor: 1, 2, 4 or 8: the image is decoded at 1 / factor of its size.

    Returns:
      At least these rows, which stay as they are until this thread decodes others; None: the file
      is damaged, and only `images.decode` knows whether it can be used.
    """
    # Scaling colors up, whose rows may be half as many, needs the row below, too.
    rows = min(stop + 2 * factor, header.height) if header.is_sequential else header.height
    shape = -(-rows // factor), -(-header.width // factor)
    if rows < header.height:
        at = header.frame + 3
        data = b"".join((data[:at], struct.pack(">H", rows), data[at + 2 :]))
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            min_height=shape[0],
            min_width=shape[1],
            min_factor=factor,
            buffer=_memory(3 * shape[0] * shape[1]),
            # The rows that are left out count as a recoverable error.
            strict=rows == header.height,
        )
    except Exception:  # the decoder gives its message as a ValueError
        return None
    return pixels if pixels.shape[:2] == shape else None


def _memory(size: int) -> UInt8[np.ndarray, " size"]:
    """This thread's memory for pixels; new memory, which the system clears, takes longer."""
    if size > _LARGEST_SCRATCH:
        return np.empty(size, np.uint8)
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < size:
        memory = _scratch.memory = np.empty(size, np.uint8)
    return memory
