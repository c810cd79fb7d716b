"""Of images.py, its decoding."""

import io
import resource
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import images, jpeg


def encoded(image, kind, **options):
    """A file written by another library than the one that reads it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_channels_are_red_green_blue(kind):
    image = Image.new("RGB", (6, 4), (250, 128, 3))
    decoded = images.decode(encoded(image, kind, quality=100))
    assert decoded.shape == (4, 6, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to([250, 128, 3], (4, 6, 3)), atol=4)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparency_is_put_over_white(kind):
    alpha = np.zeros((2, 3, 4), np.uint8)
    alpha[..., :3] = (200, 100, 0)
    alpha[:, :, 3] = (0, 51, 255)  # transparent, a fifth, opaque
    decoded = images.decode(encoded(Image.fromarray(alpha), kind, lossless=True))
    expected = [(255, 255, 255), (244, 224, 204), (200, 100, 0)]
    np.testing.assert_array_equal(decoded, [expected, expected])


@pytest.mark.parametrize("mode, value", [("L", 77), ("1", 1), ("I;16", 77 * 257), ("P", 3)])
def test_other_pixel_formats_become_rgb(mode, value):
    expected = {"L": 77, "1": 255, "I;16": 77, "P": 9}[mode]
    image = Image.new(mode, (5, 4), value)
    if mode == "P":
        image.putpalette([channel for i in range(4) for channel in [3 * i] * 3])
    decoded = images.decode(encoded(image, "png"))
    np.testing.assert_array_equal(decoded, np.full((4, 5, 3), expected, np.uint8))


def smooth(height=30, width=40):
    """Smooth, so that JPEG keeps it, and different in every corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = 250 * rows / height, 250 * columns / width, 120 + 100 * np.sin(rows / 5)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def png_chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_file(header, rows, *chunks, interlace=0):
    """A PNG of any kind: `header` is width, height, bits, color type; `rows` are filter 0."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, interlace))
    data = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


SIXTEEN = [0, 128, 257, 0x4D4D, 0x4DFF, 0xFFFF]
EIGHT = [0, 0, 1, 77, 78, 255]  # nearest of v / 257


def test_deep_grey_keeps_the_upper_half_of_its_bits():
    row = struct.pack(">6H", *SIXTEEN)
    expected = np.array(EIGHT)[None, :, None].repeat(3, -1)
    np.testing.assert_array_equal(images.decode(png_file((6, 1, 16, 0), [row])), expected)
    tiff = encoded(Image.fromarray(np.array([SIXTEEN], np.uint16)), "tiff")
    np.testing.assert_array_equal(images.decode(tiff), expected)
    pgm = b"P5 6 1 65535\n" + row
    np.testing.assert_array_equal(images.decode(pgm), expected)
    see_through = png_file((6, 1, 16, 0), [row], png_chunk(b"tRNS", struct.pack(">H", 0x4D4D)))
    expected[0, 3] = 255
    np.testing.assert_array_equal(images.decode(see_through), expected)


@pytest.mark.parametrize("colors, channels", [(2, 3), (6, 4), (4, 2)])
def test_deep_colors_keep_the_upper_half_of_their_bits(colors, channels):
    values = [(0x0102, 0x80FF, 0xFFFF), (0x4D4D, 0, 0x1234)]
    if channels == 2:
        values = [(value[0], value[0], value[0]) for value in values]
    opaque = [value[: 3 if channels != 2 else 1] + (0xFFFF,) * (channels != 3) for value in values]
    row = b"".join(struct.pack(f">{channels}H", *value) for value in opaque)
    decoded = images.decode(png_file((2, 1, 16, colors), [row]))
    np.testing.assert_allclose(decoded[0].astype(int), np.array(values) / 257, atol=1)


def test_transparent_deep_colors_are_put_over_white():
    row = struct.pack(">4H", 0, 0x8000, 0xFFFF, 0) + struct.pack(">4H", 0, 0x8000, 0xFFFF, 0xFFFF)
    decoded = images.decode(png_file((2, 1, 16, 6), [row]))
    np.testing.assert_allclose(decoded.astype(int), [[(255, 255, 255), (0, 128, 255)]], atol=1)


def test_transparent_grey_is_put_over_white():
    data = np.zeros((1, 3, 2), np.uint8)
    data[..., 0], data[..., 1] = 100, (0, 51, 255)
    decoded = images.decode(encoded(Image.fromarray(data, "LA"), "png"))
    np.testing.assert_array_equal(decoded[0, :, 0], [255, 224, 100])
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("transparency, first", [(None, (10, 20, 30)), (0, (255, 255, 255))])
def test_palettes_with_and_without_transparency(transparency, first):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}
    for kind in ("png", "gif"):
        decoded = images.decode(encoded(image, kind, **options))
        np.testing.assert_array_equal(decoded, [[first, (200, 100, 0)]])
    if transparency is not None:  # of each color of its own
        decoded = images.decode(encoded(image, "png", transparency=bytes([51, 255])))
        np.testing.assert_array_equal(decoded, [[(206, 208, 210), (200, 100, 0)]])


@pytest.mark.parametrize("mode, key", [("RGB", (200, 100, 0)), ("L", 90), ("1", 0)])
def test_a_transparent_color_is_white(mode, key):
    image = Image.new(mode, (3, 2), key)
    decoded = images.decode(encoded(image, "png", transparency=key))
    np.testing.assert_array_equal(decoded, np.full((2, 3, 3), 255))


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff", "ppm", "gif", "avif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_another_program_shows(kind, mode):
    image = smooth().convert(mode)
    data = encoded(image, kind, **({"lossless": True} if kind == "webp" else {}))
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.decode(data), expected)
    np.testing.assert_allclose(expected, np.array(image.convert("RGB")), atol=25)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_kinds_of_jpeg(mode, options):
    data = encoded(smooth().convert(mode), "jpeg", quality=95, **options)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"), int)
    np.testing.assert_allclose(images.decode(data), expected, atol=2)


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_stored_inverted(adobe):
    """Every program takes it so, with Adobe's mark or without."""
    data = encoded(smooth().convert("CMYK"), "jpeg", quality=95)
    mark = data.index(b"\xff\xee\0\x0eAdobe")
    if not adobe:
        data = data[:mark] + data[mark + 16 :]
    np.testing.assert_allclose(images.decode(data).astype(int), np.array(smooth()), atol=12)


def test_ycck_is_cmyk_with_its_colors_as_luma_and_chroma():
    ink = np.array(ImageOps.invert(smooth()).convert("YCbCr"))
    stored = np.concatenate([ink, np.full((30, 40, 1), 255, np.uint8)], -1)
    # What Pillow writes is the inverse of what it is given.
    data = encoded(Image.fromarray(255 - stored, "CMYK"), "jpeg", quality=95)
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data = data[:transform] + b"\2" + data[transform + 1 :]
    np.testing.assert_allclose(images.decode(data).astype(int), np.array(smooth()), atol=12)


# How an image is stored (rows, columns) that is shown as it is with EXIF's orientation 1 to 8.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(kind, orientation):
    shown, exif = np.array(smooth()), Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](shown)))
    options = {"jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    decoded = images.decode(encoded(stored, kind, exif=exif, **options.get(kind, {})))
    assert decoded.shape == shown.shape
    np.testing.assert_allclose(decoded.astype(int), shown, atol=8 if kind == "jpeg" else 0)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_show_their_first_frame(kind):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(images.decode(data), np.full((4, 6, 3), (255, 0, 0)))


def test_interlaced_png():
    image = np.array(smooth(13, 11))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    parts = [image[y::dy, x::dx] for y, x, dy, dx in [*passes, (1, 0, 2, 1)]]
    data = png_file((11, 13, 8, 2), [row.tobytes() for part in parts for row in part], interlace=1)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), image)
    np.testing.assert_array_equal(images.decode(data), image)


TURNED = b"\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"  # orientation 6
GARBAGE = {
    "nothing": b"",
    "text": b"garbage",
    "prefix": b"Exif\0\0garbage",
    "an offset beyond": b"II*\0\xff\xff\xff\xff",
    "more entries than bytes": b"MM\0*\0\0\0\x08\xff\xff",
    "orientation 65535": b"II*\0" + TURNED[:-4] + b"\xff\xff\0\0",
    "other byte order": b"XX*\0" + TURNED,
}


def with_metadata(kind, exif):
    """The smooth image with these bytes as its Exif data."""
    if kind == "png":
        data = encoded(smooth(), "png")
        return data[:33] + png_chunk(b"eXIf", exif) + data[33:]
    if kind == "jpeg":
        data = encoded(smooth(), "jpeg", quality=95, subsampling=0)
        return (
            data[:2]
            + b"\xff\xe1"
            + struct.pack(">H", 8 + len(exif))
            + b"Exif\0\0"
            + exif
            + data[2:]
        )
    return encoded(smooth(), kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, as it writes
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_metadata_that_say_nothing_leave_the_pixels(kind, garbage):
    decoded = images.decode(with_metadata(kind, GARBAGE[garbage]))
    np.testing.assert_allclose(decoded.astype(int), np.array(smooth()), atol=8)
    turned = images.decode(with_metadata(kind, b"II*\0" + TURNED))
    np.testing.assert_allclose(turned.astype(int), np.rot90(smooth(), -1), atol=8)


ANCILLARY = ("tEXt", "zTXt", "iTXt", "iCCP", "pHYs", "gAMA", "cHRM", "sBIT", "tIME", "tRNS", "PLTE")


@pytest.mark.parametrize("kind", [*ANCILLARY, "acTL", "fcTL", "fdAT", "prIv"])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_damaged_chunks_beside_the_pixels_of_a_png_do_not_matter(kind, mode, capfd):
    if (kind, mode) == ("PLTE", "P"):
        pytest.skip("there it is one of the pixels'")
    data = encoded(smooth().convert(mode), "png")
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    contents = [b"" if kind == "tRNS" else b"garbage", b""]
    for content in contents:
        chunk = png_chunk(kind.encode(), content)
        for spoiled in (chunk, chunk[:-4] + bytes(4)):  # with a false checksum, too
            at = data.index(b"IDAT") - 4
            decoded = images.decode(data[:at] + spoiled + data[at:])
            np.testing.assert_array_equal(decoded, expected)
    assert capfd.readouterr().err == ""


def test_text_that_unpacks_to_a_hundred_megabytes_is_not_read():
    data, bomb = encoded(smooth(), "png"), zlib.compress(bytes(10**8))
    for chunk in (png_chunk(b"zTXt", b"k\0\0" + bomb), png_chunk(b"iCCP", b"k\0\0" + bomb)):
        decoded = images.decode(data[:33] + chunk + data[33:])
        np.testing.assert_array_equal(decoded, np.array(smooth()))


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_pixels_of_a_png_whose_checksum_is_false_are_a_bad_example(mode, capfd):
    data = encoded(smooth().convert(mode), "png")
    at = data.index(b"IDAT") + 60
    assert_bad(damaged(data, at, bytes([data[at] ^ 1])))
    assert capfd.readouterr().err == ""


def test_pillow_is_silent():
    """In a process of its own, where nobody collects warnings, and each would be an error."""
    large = png_file((11_000, 10_000, 8, 3), [bytes(100)])
    cut = encoded(smooth(), "tiff")[:30]
    program = (
        "from coca_jax.data.transforms import images\n"
        f"for data in ({large!r}, {cut!r}):\n"
        "    try:\n        images.decode(data)\n"
        "    except images.BadExample as error:\n        print(error)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True)
    assert done.stderr == b"" and done.stdout.count(b"bad_image") == 2
    assert b"Warning" not in done.stdout


@pytest.mark.parametrize(
    "data, name",
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not decoded"),
        (b"\0\0\0\x18ftyphevx\0\0\0\0mif1heic", "HEIC, which is not decoded"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"%PDF-1.7", "PDF"),
        (b"some text", "no image of a known format"),
        (b"\0\0\0\x20ftypavif", "AVIF, damaged or of a kind that is not decoded"),
        (b"II*\0" + bytes(96), "TIFF, damaged"),
        (b"GIF89a", "GIF, damaged"),
        (b"\x89PNG\r\n\x1a\n", "PNG, damaged"),
    ],
)
def test_what_is_not_decoded_is_named(data, name):
    with pytest.raises(BadExample, match=name):
        images.decode(data)


def damaged(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def jpeg_of_size(height, width):
    data = encoded(smooth(), "jpeg")
    return damaged(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def bombs():
    """Small files of many or of no pixels."""
    large = 60_000
    yield "jpeg", jpeg_of_size(large, large)
    yield "jpeg without height", jpeg_of_size(0, 40)
    yield "jpeg with a smaller size before", jpeg_of_two_sizes(large)
    for colors in (0, 2, 3, 6):
        yield f"png {colors}", png_file((large, large, 8, colors), [bytes(100)])
        yield f"png {colors} of nothing", png_file((0, 5, 8, colors), [b""])
    yield "deep png", png_file((large, large, 16, 2), [bytes(100)])
    gif = encoded(Image.new("P", (4, 4)), "gif")
    yield "gif", damaged(gif, 6, struct.pack("<HH", large, large))
    bmp = encoded(smooth(), "bmp")
    yield "bmp", damaged(bmp, 18, struct.pack("<ii", large, large))
    yield "ppm", b"P6 60000 60000 255\n" + bytes(100)
    just = 11_586  # its square is the first above 2**27
    yield "jpeg of a little too many", jpeg_of_size(just, just)
    yield "png of a little too many", png_file((just, just, 8, 3), [bytes(100)])


def jpeg_of_two_sizes(large):
    """Its true size stands behind another within a comment, and behind filling."""
    data = jpeg_of_size(large, large)
    comment = b"\xff\xfe" + struct.pack(">H", 13) + b"\xff\xc0\0\x11\x08\0\x08\0\x08\3\1"
    return data[:2] + comment + b"\xff\xff\xff" + data[2:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name, data", list(bombs()))
def test_bombs_are_bad_examples_and_take_no_memory(name, data):
    before = most_memory()
    assert_bad(data)
    assert most_memory() - before < 50_000


def test_a_png_that_promises_gigabytes_takes_no_memory():
    data, before = encoded(smooth(), "png"), most_memory()
    decoded = images.decode(damaged(data, data.index(b"IDAT") - 4, b"\xf0"))
    np.testing.assert_array_equal(decoded, np.array(smooth()))  # which is all there
    assert most_memory() - before < 50_000


def most_memory():
    """In KiB, since the process began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\xff\xe0\0\0"])
def test_megabytes_without_an_image_take_no_time(filling):
    begin = time.perf_counter()
    assert_bad(jpeg.START + filling * 1_000_000)
    assert time.perf_counter() - begin < 5


def assert_bad(data):
    with pytest.raises(BadExample) as error:
        images.decode(data)
    assert error.value.kind == "bad_image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0",
        b"\xff\xd8\xff\xc0\0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head></html>",
        bytes(10_000),
    ],
)
def test_unreadable_data_is_a_bad_example(data):
    assert_bad(data)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "cmyk", "png", "gif", "webp", "bmp"])
def test_a_file_that_is_cut_off_is_a_bad_example(kind):
    image = smooth().convert("CMYK" if kind == "cmyk" else "RGB")
    if kind in ("jpeg", "progressive", "cmyk"):
        data = encoded(image, "jpeg", progressive=kind == "progressive")
    else:
        data = encoded(image, kind)
    images.decode(data)
    # Of PNG and GIF, the very last bytes hold no pixels.
    for length in range(0, len(data) - (25 if kind in ("png", "gif") else 0), 3):
        assert_bad(data[:length])


@pytest.mark.parametrize("instead", [bytes(5_000), b"<html>timeout</html>" * 9])
def test_a_jpeg_that_something_else_ends_is_a_bad_example(instead):
    exif = Image.Exif()
    exif[0x010E] = "a thumbnail's end: \xff\xd9"
    for options in ({}, {"progressive": True}, {"exif": exif}):
        data = encoded(smooth(), "jpeg", **options)
        for length in range(0, len(data) - 1, 7):
            assert_bad(data[:length] + instead)


def test_what_follows_an_image_does_not_matter():
    for kind in ("jpeg", "png"):
        data = encoded(smooth(), kind)
        trailed = images.decode(data + b"a video" * 1_000)
        np.testing.assert_array_equal(trailed, images.decode(data))


def test_more_than_eight_bits_without_a_scale_are_bad_examples():
    for values in (np.array([[0.5]], np.float32), np.array([[70_000]], np.int32)):
        assert_bad(encoded(Image.fromarray(values), "tiff"))


@pytest.mark.parametrize(
    "least, factor", [(None, 1), (101, 1), (100, 2), (51, 2), (50, 4), (25, 8), (1, 8)]
)
def test_a_jpeg_is_reduced_as_far_as_is_asked(least, factor):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image = smooth(200, 320)
    decoded = images.decode(encoded(image, "jpeg", quality=95, exif=exif), least)
    expected = np.rot90(np.array(image.reduce(factor)), -1)
    assert decoded.shape == (320 // factor, 200 // factor, 3)
    np.testing.assert_allclose(decoded.astype(int), expected, atol=12)


def test_only_jpegs_are_reduced():
    assert images.decode(encoded(smooth(), "png"), 1).shape == (30, 40, 3)
