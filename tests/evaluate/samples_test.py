import cv2
import numpy as np
import pytest

from coca_jax.evaluate.samples import EvenlySpaced, thumbnail


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 9, 23, 100])
def test_a_few_of_a_stream_are_evenly_spaced(length):
    spaced = EvenlySpaced(4)
    for i in range(length):
        spaced.offer(lambda i=i: i)
        assert len(spaced._kept) < 8
    chosen = spaced.chosen()
    assert len(chosen) == min(4, length)
    steps = np.diff([*chosen, length])
    assert chosen[0] == 0 and steps.max() <= 2 * steps[:-1].min(initial=length)


def test_what_is_not_kept_is_not_made():
    spaced, made = EvenlySpaced(4), []
    for i in range(1000):
        spaced.offer(lambda i=i: made.append(i))
    assert len(made) < 50


def test_thumbnail_shrinks_the_longer_side_and_keeps_colors():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :100] = (250, 10, 20)
    decoded = cv2.imdecode(np.frombuffer(thumbnail(image, 50), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (25, 50, 3)
    np.testing.assert_allclose(decoded[12, 10, ::-1], (250, 10, 20), atol=6)


def test_thumbnail_does_not_enlarge():
    encoded = thumbnail(np.zeros((6, 4, 3), np.uint8), 50)
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR).shape == (6, 4, 3)
