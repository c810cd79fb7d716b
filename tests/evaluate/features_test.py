import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate.features import read_features

IMAGES = {0: [1, 0], 1: [0, 1], 2: [3, 4]}


def test_features_are_those_of_labeled_examples_and_computed_once(fake_model, batches, tmp_path):
    model = fake_model(IMAGES, {"x": [1, 0]})
    folder = tmp_path / "new/place"
    for _ in range(2):
        made = batches([[]] * 3, [1, -1, 0], [2, 1])
        features = read_features(model, made, folder)
        assert features.tokens.dtype == np.float16 and isinstance(features.tokens, np.memmap)
        expected = [[[1, 0], [2, 0]], [[0.6, 0.8], [1.2, 1.6]]]
        np.testing.assert_allclose(features.tokens, expected, atol=1e-3)
        assert features.labels.tolist() == [1, 0]
    assert model.images_encoded == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["place"]


def test_what_was_interrupted_leaves_nothing(fake_model, batches, tmp_path):
    model = fake_model({0: [1, 0]}, {"x": [1, 0]})
    with pytest.raises(KeyError):  # of image 1
        read_features(model, batches([[]] * 2, [0, 0], [1, 1]), tmp_path / "place")
    assert list(tmp_path.iterdir()) == []


def test_no_label(fake_model, batches, tmp_path):
    model = fake_model(IMAGES, {"x": [1, 0]})
    with pytest.raises(UserError, match="no example has one"):
        read_features(model, batches([[]], [-1], [1]), tmp_path / "place")


@pytest.mark.parametrize("name", ["tokens.npy", "labels.npy", "bad_images.npy"])
@pytest.mark.parametrize("content", [None, b"", b"text", "cut", "shape"])
def test_damaged_features_are_computed_again(fake_model, batches, tmp_path, capsys, name, content):
    model, folder = fake_model(IMAGES, {"x": [1, 0]}), tmp_path / "place"
    first = read_features(model, batches([[]] * 3, [1, -1, 0], [2, 1]), folder)
    expected = np.array(first.tokens)
    file = folder / name
    whole = file.read_bytes()
    file.unlink()
    if content == "shape":
        np.save(file, np.zeros((7, 7), np.int64))
    elif content is not None:
        file.write_bytes(whole[:-3] if content == "cut" else content)
    again = read_features(model, batches([[]] * 3, [1, -1, 0], [2, 1]), folder)
    np.testing.assert_array_equal(again.tokens, expected)
    assert again.labels.tolist() == [1, 0] and again.bad_images == first.bad_images
    assert f"warning: {folder} is damaged" in capsys.readouterr().err
