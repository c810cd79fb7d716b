"""The matching head: which pairs it judges, against pairs that are put together by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_params import random_params

from coca_jax.models import PRESETS, make_model
from coca_jax.models.inputs import with_masks
from coca_jax.models.matching import end_of_text, hard_negatives, make_draws

BLOCK, ROWS = 4, 10  # the last block has two pairs


@pytest.fixture(scope="module")
def judged():
    """A model's output for a batch, and the matching head's logits of any pair of it."""
    config = dataclasses.replace(PRESETS["tiny"], matching_block=BLOCK, negatives=True)
    model, rng = make_model(config), np.random.default_rng(0)
    params, pixels = random_params(model), rng.standard_normal((ROWS, 16, 16, 3), np.float32)
    ids, wrong = rng.integers(1, 64, (2, ROWS, 12), np.int32)
    lengths = rng.integers(2, 13, ROWS)
    ids[np.arange(12)[None] >= lengths[:, None]] = 0
    ids[2], ids[9] = ids[1], ids[8]  # equal texts are not negatives of each other
    wrong[::3] = 0
    batch = with_masks(config, {"text": jnp.array(ids), "negative_text": jnp.array(wrong)})
    call = jax.jit(model.apply)
    inputs = {"negative_ids": wrong, "matching_draws": batch["matching_draws"]}
    output = jax.device_get(call({"params": params}, pixels, ids, **inputs))
    every = np.concatenate([ids, wrong])
    match = jax.jit(lambda *args: model.apply({"params": params}, *args, method="match"))
    # Each image with each text: texts of one image in a row.
    pairs = match(pixels, np.tile(every, (ROWS, 1))).reshape(ROWS, 2 * ROWS)
    return output, np.asarray(pairs), ids, params, model


def most_similar(output, ids, axis):
    """For each pair the most similar other image (axis 0) or text (1) of its block, or none."""
    similar = output.image_embeddings @ output.text_embeddings.T
    chosen = []
    for i in range(ROWS):
        block = range(i // BLOCK * BLOCK, min(ROWS, i // BLOCK * BLOCK + BLOCK))
        others = [j for j in block if (ids[j] != ids[i]).any()]
        scores = similar[i] if axis else similar[:, i]
        chosen.append(max(others, key=lambda j, scores=scores: scores[j], default=None))
    return chosen


def test_each_pair_is_judged_with_its_hard_negatives(judged):
    output, pairs, ids, _, _ = judged
    texts, images = (most_similar(output, ids, axis) for axis in (1, 0))
    assert texts[8:] == images[8:] == [None, None] and len({*texts, *images}) > 5
    logits, mask = output.matching_logits, output.matching_mask
    assert logits.dtype == np.float32 and mask.shape == logits.shape == (ROWS, 4)
    for i in range(ROWS):
        wanted = [pairs[i, i]]
        wanted += [None if texts[i] is None else pairs[i, texts[i]]]
        wanted += [None if images[i] is None else pairs[images[i], i]]
        wanted += [None if i % 3 == 0 else pairs[i, ROWS + i]]
        assert mask[i].tolist() == [value is not None for value in wanted]
        given = [value for value in wanted if value is not None]
        np.testing.assert_allclose(logits[i][mask[i]], given, rtol=2e-4, atol=2e-5)


def test_the_head_reads_the_end_of_the_text(judged):
    """A linear function of the decoder's output at the last token that is not padding."""
    output, pairs, ids, params, _ = judged
    ends = np.argmax(np.where(ids > 0, np.arange(12), -1), axis=1)
    features = output.features[np.arange(ROWS), ends].astype(float)
    kernel, bias = (np.asarray(params["matching_head"][n], float) for n in ("kernel", "bias"))
    np.testing.assert_allclose(np.diag(pairs), (features @ kernel + bias)[:, 0], rtol=1e-3)


@pytest.mark.parametrize("ids, last", [([5, 0, 7, 0, 0], 2), ([5, 6, 7, 8, 9], 4), ([0] * 5, 0)])
def test_the_end_of_a_text_may_follow_the_id_of_padding(ids, last):
    features = jnp.arange(5, dtype=jnp.float32)[None, :, None]
    assert end_of_text(features, jnp.array([ids]), pad_id=0).tolist() == [[last]]


def test_negatives_are_drawn_by_their_similarity():
    """As often as the softmax of similarities says, and none of the same text or group."""
    rng, size = np.random.default_rng(0), 5
    x, y = rng.standard_normal((2, size, 3))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    batch = {
        "text": jnp.array([[1], [2], [3], [1], [5]]),
        "group": jnp.array([[0, 1], [0, 2], [0, 3], [0, 4], [0, 2]]),
    }

    def draw(key):
        noise = make_draws(batch, size, key)
        return hard_negatives(jnp.float32(x), jnp.float32(y), jnp.float32(2), noise)

    count = 2000
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count))
    assert drawn.exist.all()
    weights = np.exp(2 * x @ y.T)
    for i, same in enumerate([(0, 3), (1, 4), (2,), (0, 3), (1, 4)]):
        for chosen, of_row in ((drawn.text, weights[i]), (drawn.image, weights[:, i])):
            of_row = of_row.copy()
            of_row[list(same)] = 0
            shares = np.bincount(chosen[:, 0, i], minlength=size) / count
            np.testing.assert_allclose(shares, of_row / of_row.sum(), atol=4 / np.sqrt(count))


def test_a_block_does_not_depend_on_the_rest_of_the_batch():
    """So that it may be anywhere: on another device, in another micro-batch."""
    text = jnp.array(np.random.default_rng(0).integers(0, 2, (8, 1)))
    whole = make_draws({"text": text}, 4, None)
    np.testing.assert_array_equal(whole[4:], make_draws({"text": text[4:]}, 4, None))
