import re

import numpy as np
import pytest
from PIL import Image

from coca_jax.data.file_names import (
    HIDDEN_PATTERN,
    IMAGE_SUFFIXES,
    OTHER_IMAGES,
    is_hidden,
    is_image,
)
from coca_jax.data.transforms import images


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden.jpg", "._x.jpg", ".DS_Store", ".ipynb_checkpoints", ".~lock.a.csv#", "~$a.csv"),
        *("__MACOSX", "Icon\r", "Thumbs.db", "thumbs.db", "Desktop.ini", "$RECYCLE.BIN"),
        *("System Volume Information", "lost+found", "@eaDir", "#recycle"),
        *("cat/.hidden.jpg", "__MACOSX/cat/x.jpg", "cat/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *(".x/a.jpg", "./.x", "..."),
    ],
)
def test_what_systems_leave_is_hidden_at_any_depth(name):
    assert is_hidden(name)


@pytest.mark.parametrize(
    "name", ["x.jpg", "cat", "./x.jpg", "../x.jpg", "cat/x.y.jpg", "_x.jpg", "icon", "x~", "", "a/"]
)
def test_what_people_name_is_not(name):
    assert not is_hidden(name)


@pytest.mark.parametrize("name", ["a.jpg", ".", "..", ".a", "..a", "._a", "~$a", "~a", "thumbs.DB"])
@pytest.mark.parametrize("more", ["", "x"])
def test_the_pattern_says_the_same(name, more):
    assert bool(re.match(HIDDEN_PATTERN, name + more, re.IGNORECASE)) == is_hidden(name + more)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_what_has_the_suffix_of_an_image_is_decoded(suffix, tmp_path):
    file = tmp_path / f"a{suffix.upper()}"
    Image.fromarray(np.full((8, 9), 200, np.uint8)).save(file)
    assert is_image(file.name)
    np.testing.assert_allclose(images.decode(file.read_bytes()), np.full((8, 9, 3), 200), atol=3)


def test_what_is_not_decoded_is_no_image():
    assert not any(is_image(f"a{suffix}") for suffix in (*OTHER_IMAGES, ".txt", ".mp4", ""))
    assert not is_image("jpg") and not is_image("a.jpg.txt")
