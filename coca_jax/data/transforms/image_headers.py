"""Parts of image files other than pixels: chunks of PNG, orientation, signatures of formats."""

import math
import re
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from coca_jax.data.errors import BadExample

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_TRANSPARENT_BYTES = {0: 2, 2: 6, 3: 1}  # of a tRNS chunk, at least, by color type

_SVG = re.compile(
    rb"(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg|\s)*<svg|(<\?xml[^>]*>\s*)?<!DOCTYPE svg"
)
# Brands of images in the container that videos have, too.
_HEIC_BRANDS = (
    *(b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"hevx"),
    *(b"mif1", b"msf1"),
)
_AVIF_BRANDS = (b"avif", b"avis")
IMAGE_BRANDS = frozenset((*_HEIC_BRANDS, *_AVIF_BRANDS))


def _begin(brands: Sequence[bytes]) -> re.Pattern[bytes]:
    return re.compile(rb".{4}ftyp(" + b"|".join(brands) + rb")", re.DOTALL)


_DECODED = (  # formats that are decoded as far as a decoder knows the file for one of its own
    ("AVIF", _begin(_AVIF_BRANDS)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("PNG", re.compile(PNG_SIGNATURE)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WebP", re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
)
_OTHERS = (  # common ones that are not decoded
    ("HEIC", _begin(_HEIC_BRANDS)),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("JPEG 2000", re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP")),
    ("SVG", _SVG),
    ("PDF", re.compile(rb"%PDF")),
    ("PSD", re.compile(rb"8BPS")),
    ("gzip", re.compile(rb"\x1f\x8b")),
    ("HTML", re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)),
)


class Png(NamedTuple):
    """A PNG reduced to the chunks of its first image.

    Decoders stop at damaged ancillary chunks or warn of them; these hold text, color profiles and
    animations.
    """

    data: bytes
    exif: bytes
    is_plain: bool  # whole, not interlaced, and gray or RGB of 8 bits without transparency


def read_png(data: bytes) -> Png:
    """Reads the chunks of a file that begins with PNG_START; a truncated last one is kept.

    Raises:
      BadExample: a chunk of its pixels is damaged.
    """
    kept, exif, at, ended = [PNG_SIGNATURE], b"", 8, False
    while len(data) - at >= 12 and not ended:
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind in _PIXEL_CHUNKS and _is_useful(kind, content, colors=data[25]):
            if end <= len(data) and zlib.crc32(data[at + 4 : end - 4]) != _crc(data, end):
                raise BadExample("bad_image", f"a PNG whose {kind.decode()} chunk is damaged")
            kept.append(data[at:end])
        elif kind == b"eXIf":
            exif = content
        ended, at = kind == b"IEND", end
    if at < len(data) and not ended:
        kept.append(data[at:])
    is_plain = ended and data[24:29] in (b"\x08\0\0\0\0", b"\x08\2\0\0\0")
    is_plain &= all(chunk[4:8] != b"tRNS" for chunk in kept)
    return Png(b"".join([*kept, _PNG_END * ended]), exif, is_plain)


def _is_useful(kind: bytes, content: bytes, colors: int) -> bool:
    """Whether images of this color type have such a chunk of pixels."""
    if kind == b"tRNS":
        return len(content) >= _TRANSPARENT_BYTES.get(colors, math.inf)
    return kind != b"PLTE" or colors == 3


def _crc(data: bytes, end: int) -> int:
    return int.from_bytes(data[end - 4 : end])


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in Exif data; 1, upright, if there is none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # truncated
        pass
    return 1


def describe_unknown(data: bytes) -> str:
    """The format of a file that no decoder reads, in words."""
    if not data:
        return "the file is empty"
    for name, pattern in _DECODED:
        if pattern.match(data):
            return f"{name}, damaged or of a kind that is not decoded"
    for name, pattern in _OTHERS:
        if pattern.match(data[:1024]):
            return f"{name}, which is not decoded"
    return "no image of a known format"
