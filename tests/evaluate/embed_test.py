import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import embed


def test_examples_keep_their_order_over_batches_of_different_sizes(fake_model, batches):
    planted = {0: [1, 0], 1: [0, 1], 2: [-1, 0]}
    model = fake_model(planted, {"a": [1, 0]})
    captions = [["a"], ["b", "c"], []]
    examples = embed.embed_examples(model, batches(captions, [4, -1, 2], [2, 1]))
    np.testing.assert_array_equal(examples.images, [[1, 0], [0, 1], [-1, 0]])
    assert examples.captions == captions
    assert examples.labels.tolist() == [4, -1, 2]
    assert len(examples.thumbnails) == 3


def test_no_examples_is_an_error_of_the_user(fake_model):
    with pytest.raises(UserError, match="no examples"):
        embed.embed_examples(fake_model({}, {"a": [1]}), [])


def test_texts_are_encoded_in_chunks_and_in_order(fake_model, monkeypatch):
    monkeypatch.setattr(embed, "TEXTS_PER_CALL", 2)
    model = fake_model({}, {"a": [1, 0], "b": [0, 1], "c": [-1, 0]})
    embedded = embed.embed_texts(model, ["c", "a", "b", "c", "a"])
    np.testing.assert_array_equal(embedded, [[-1, 0], [1, 0], [0, 1], [-1, 0], [1, 0]])
