"""Images of requests: from base64 or an upload to the pixels that the model reads."""

import base64
import binascii
import re

import numpy as np
from jaxtyping import UInt8

from coca_jax.data.errors import BadExample, TooManyPixels
from coca_jax.data.transforms import images
from coca_jax.serve.errors import RequestError

# Clients choose the text: both patterns look at its first characters only.
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}:", re.IGNORECASE)


def is_url(source: str | bytes) -> bool:
    """Whether the source of an image is a URL, other than one that holds the image itself."""
    return isinstance(source, str) and bool(_URL.match(source)) and not _DATA_URL.match(source)


def from_base64(text: str, what: str) -> bytes:
    """The file that a text in base64, or a `data:` URL, holds.

    Raises:
      RequestError: it is not base64 (422).
    """
    encoded = text[match.end() :] if (match := _DATA_URL.match(text)) else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, f"{what} is not base64 of an image file") from error


def decode(data: bytes, what: str, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image, after its header has said that it is not too large.

    Raises:
      RequestError: it has too many pixels (413), or is not an image that can be decoded (422).
    """
    try:
        height, width = images.read_size(data)
        if height * width > max_pixels:
            raise RequestError(
                413, f"{what} has {width} x {height} pixels; at most {max_pixels:,} are accepted"
            )
        return images.decode(data)
    except TooManyPixels as error:
        raise RequestError(413, f"{what} has too many pixels: {error.reason}") from error
    except BadExample as error:
        reason = error.reason.splitlines()[0][:200]
        raise RequestError(422, f"{what} cannot be read as an image: {reason}") from error
