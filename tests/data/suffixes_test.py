import numpy as np
import pytest
from PIL import Image

from coca_jax.data.suffixes import IMAGE_SUFFIXES, OTHER_IMAGES, is_image
from coca_jax.data.transforms import images


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_what_has_the_suffix_of_an_image_is_decoded(suffix, tmp_path):
    file = tmp_path / f"a{suffix.upper()}"
    Image.fromarray(np.full((8, 9), 200, np.uint8)).save(file)
    assert is_image(file.name)
    np.testing.assert_allclose(images.decode(file.read_bytes()), np.full((8, 9, 3), 200), atol=3)


def test_what_is_not_decoded_is_no_image():
    assert not any(is_image(f"a{suffix}") for suffix in (*OTHER_IMAGES, ".txt", ".mp4", ""))
    assert not is_image("jpg") and not is_image("a.jpg.txt")
