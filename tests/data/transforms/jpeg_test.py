import numpy as np
import pytest
from data.jpeg_files import PLAIN, encoded, photo
from PIL import Image

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import images, jpeg


def rows_of(data, stop, factor=1):
    header = jpeg.read_header(data)
    return jpeg.decode_rows(data, header, stop, factor) if header.is_plain else None


@pytest.mark.parametrize("kind", PLAIN)
def test_rows_are_those_of_the_whole_image(kind):
    data = encoded(**PLAIN[kind])
    whole = images.decode(data)
    for stop in (1, 7, 8, 15, 16, 17, 90, 149, 150):
        rows = rows_of(data, stop)
        np.testing.assert_array_equal(rows[:stop], whole[:stop])
        assert rows.shape[1:] == whole.shape[1:]


def test_rows_below_are_not_decoded():
    data = encoded()
    spoiled = data[: -len(data) // 3] + bytes(len(data) // 4) + jpeg.END
    np.testing.assert_array_equal(rows_of(spoiled, 70)[:70], images.decode(data)[:70])
    assert len(rows_of(spoiled, 70)) < 80
    # Progressive files have all rows in each of their scans.
    assert not jpeg.read_header(encoded(progressive=True)).is_sequential


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "progressive", "gray"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_pixels_are_means_of_squares(kind, factor):
    data = encoded(**PLAIN[kind])
    means = np.array(Image.fromarray(images.decode(data)).reduce(factor), int)
    for stop in (40, 80, 150):
        count = stop // factor
        rows = rows_of(data, stop, factor)[:count].astype(int)
        # Colors are averaged before they are scaled up, and values out of range are not cut off.
        np.testing.assert_allclose(rows, means[:count], atol=12)
        assert np.abs(rows - means[:count]).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_only_an_upright_jpeg_is_plain(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert jpeg.read_header(encoded(exif=exif)).is_plain == (orientation == 1)


def test_a_jpeg_with_four_colors_or_without_end_is_not_plain():
    assert not jpeg.read_header(encoded(photo().convert("CMYK"))).is_plain
    assert not jpeg.read_header(encoded()[:-2]).is_plain
    scan = encoded().index(b"\xff\xda")
    assert not jpeg.read_header(encoded()[:scan] + jpeg.END).is_plain


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_files_have_the_pixels_that_opencv_finds(progressive, capfd):
    data = encoded(photo(48, 64), progressive=progressive)
    cases = [data[:length] + end for length in range(9, len(data), 97) for end in ENDS]
    cases += [data[:at] + b"\x55\xaa" + data[at + 2 :] for at in range(9, len(data), 53)]
    cases += [data + b"a video" * 99, data[:-2] + jpeg.END * 2]
    equal = 0
    for case in cases:
        try:
            rows = rows_of(case, 48)
        except (BadExample, ValueError, IndexError, jpeg.struct.error):
            rows = None
        if rows is not None:
            np.testing.assert_array_equal(rows, images.decode(case))
            equal += 1
    assert 2 < equal < len(cases)


ENDS = (b"", b"<html>", bytes(99) + jpeg.END, jpeg.END)


def test_a_header_without_a_size_is_a_bad_example():
    with pytest.raises(BadExample, match="a JPEG without size"):
        jpeg.read_header(jpeg.START + b"\xe0\0\2")
