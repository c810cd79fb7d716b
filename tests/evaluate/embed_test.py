import cv2
import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import embed


def test_examples_keep_their_order_over_batches_of_different_sizes(fake_handle, batches):
    planted = {0: [1, 0], 1: [0, 1], 2: [-1, 0]}
    handle = fake_handle(planted, {"a": [1, 0]})
    captions = [["a"], ["b", "c"], []]
    examples = embed.embed_examples(handle, batches(captions, [4, -1, 2], [2, 1]))
    np.testing.assert_array_equal(examples.images, [[1, 0], [0, 1], [-1, 0]])
    assert examples.captions == captions
    assert examples.labels.tolist() == [4, -1, 2]
    assert len(examples.thumbnails) == 3


def test_no_examples_is_an_error_of_the_user(fake_handle):
    with pytest.raises(UserError, match="no examples"):
        embed.embed_examples(fake_handle({}, {"a": [1]}), [])


def test_texts_are_encoded_in_chunks_and_in_order(fake_handle, monkeypatch):
    monkeypatch.setattr(embed, "TEXTS_PER_CALL", 2)
    handle = fake_handle({}, {"a": [1, 0], "b": [0, 1], "c": [-1, 0]})
    embedded = embed.embed_texts(handle, ["c", "a", "b", "c", "a"])
    np.testing.assert_array_equal(embedded, [[-1, 0], [1, 0], [0, 1], [-1, 0], [1, 0]])


def test_thumbnail_shrinks_the_longer_side_and_keeps_colours():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :100] = (250, 10, 20)
    decoded = cv2.imdecode(np.frombuffer(embed.thumbnail(image, 50), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (25, 50, 3)
    np.testing.assert_allclose(decoded[12, 10, ::-1], (250, 10, 20), atol=6)


def test_thumbnail_does_not_enlarge():
    encoded = embed.thumbnail(np.zeros((6, 4, 3), np.uint8), 50)
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR).shape == (6, 4, 3)
