import base64
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from coca_jax.serve import images
from coca_jax.serve.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
NO_IMAGES = (b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"%PDF")


def stored(kind, height=20, width=30):
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png_bomb(side):
    """A whole PNG of few bytes whose pixels are many."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def gif_bomb(side):
    data = bytearray(stored("GIF"))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def bmp_bomb(side):
    data = bytearray(stored("BMP"))
    data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_decoded_up_to_the_limit_of_pixels(kind):
    assert images.decode(stored(kind), "it", 600).shape == (20, 30, 3)
    with pytest.raises(RequestError, match="30 x 20 pixels; at most 599") as refused:
        images.decode(stored(kind), "it", 599)
    assert refused.value.status == 413


@pytest.mark.parametrize("make", [png_bomb, gif_bomb, bmp_bomb])
@pytest.mark.parametrize("side", [8_000, 50_000])
def test_bombs_are_refused_by_their_header(make, side, monkeypatch):
    def decode(data):
        raise AssertionError("a bomb must not be decoded")

    monkeypatch.setattr("coca_jax.data.transforms.images.decode", decode)
    with pytest.raises(RequestError) as refused:
        images.decode(make(side), "it", 40_000_000)
    assert refused.value.status == 413


@pytest.mark.parametrize("data", NO_IMAGES)
def test_other_files_are_malformed(data):
    with pytest.raises(RequestError, match=r"images.2. cannot be read as an image") as refused:
        images.decode(data, "images[2]", 1000)
    assert refused.value.status == 422


def test_base64_and_data_urls_hold_files():
    data = bytes(range(256))
    text = base64.b64encode(data).decode()
    for source in (text, f"data:image/png;base64,{text}", text[:40] + "\n" + text[40:]):
        assert images.from_base64(source, "it") == data and not images.is_url(source)
    for source in ("é", "a", "data:image/png,abc", "*" * 8):
        with pytest.raises(RequestError) as refused:
            images.from_base64(source, "it")
        assert refused.value.status == 422
    assert images.is_url("https://example.org/a.png") and images.is_url("file:///etc/passwd")


@pytest.mark.parametrize("text", ["data:" + "a" * 10**6, "a" * 10**6, "data:" + ";a" * 10**6])
def test_long_texts_are_read_in_linear_time(text):
    begin = time.monotonic()
    images.is_url(text)
    with pytest.raises(RequestError):
        images.from_base64(text + "!", "it")
    assert time.monotonic() - begin < 1
