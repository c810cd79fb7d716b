"""The images of a page: masks of attention, and files that may have gone."""

import base64

import cv2
import numpy as np
from etils import epath

from coca_jax.observe.report import images


def opacity(mask):
    data = base64.b64decode(mask.removeprefix("data:image/png;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[:, :, 3]


def test_a_patch_is_as_opaque_as_its_share_of_the_largest_weight():
    weights = [[0.1, 0.4, 0.0], [0.2, 0.2, 0.1]]
    first, flat = images.word_maps(
        [{"word": "a", "map": weights}, {"word": "b", "map": [[0.25, 0.25]]}]
    )
    assert first[:4] == ("a", 0.4, 6, "3/2")
    patches = opacity(first.mask).reshape(2, 32, 3, 32)
    np.testing.assert_array_equal(patches.max(axis=(1, 3)), [[64, 255, 0], [128, 128, 64]])
    np.testing.assert_array_equal(patches.min(axis=(1, 3)), patches.max(axis=(1, 3)))
    assert (opacity(flat.mask) == 255).all()


def test_null_weights_of_a_diverged_model_light_nothing():
    (entry,) = images.word_maps([{"word": "a", "map": [[None, None]]}])
    assert entry.largest == 0 and not opacity(entry.mask).any()


def test_a_missing_image_is_named_and_left_empty(tmp_path, capsys):
    folder = epath.Path(tmp_path)
    (folder / "a.jpg").write_bytes(b"JPEG")
    assert images.image_url(folder, "x/../a.jpg") == "data:image/jpeg;base64,SlBFRw=="
    assert images.image_url(folder, "b.jpg") == images.image_url(folder, "\0") == "data:,"
    assert capsys.readouterr().err.count("names an image that cannot be read") == 2
