import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generate.tiny import (
    BOS,
    DECODING,
    EOS,
    IMAGES,
    PAD,
    all_texts,
    log_probability,
    make_pixels,
    model_and_params,
    run,
)

from coca_jax.errors import UserError
from coca_jax.generate import Beams, Prompt, score

CANDIDATES = [(3, EOS), (4,), (PAD, 5), (6, 6), ()]  # padding may be a token, too
ROWS = np.array([(*c, 3, 3)[:2] for c in CANDIDATES], np.int32)
LENGTHS = np.array([len(c) for c in CANDIDATES], np.int32)


def scored(prompt, candidates, lengths, chunk_size=64, most=IMAGES):
    model, params = model_and_params()
    run = jax.jit(functools.partial(score, model, chunk_size=chunk_size))
    return jax.tree.map(np.asarray, run(params, make_pixels()[:most], prompt, candidates, lengths))


def test_shared_candidates():
    prompt = np.array([(BOS, 3 + image % 4) for image in range(IMAGES)], np.int32)
    scores = scored(Prompt(prompt), ROWS, LENGTHS, chunk_size=2)
    expected = [
        [log_probability(image, (*prompt[image].tolist(), *c), 2) for c in CANDIDATES]
        for image in range(IMAGES)
    ]
    np.testing.assert_allclose(scores.log_probabilities, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores.lengths, np.tile(LENGTHS, (IMAGES, 1)))


def test_candidates_of_each_image_behind_prompts_of_uneven_lengths():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 7, (IMAGES, 3), dtype=np.int32)
    ids[:, 0], prompt_lengths = BOS, np.arange(IMAGES, dtype=np.int32) % 3 + 1
    candidates = rng.integers(0, 7, (IMAGES, 4, 2), dtype=np.int32)
    lengths = rng.integers(0, 3, (IMAGES, 4), dtype=np.int32)
    scores = scored(Prompt(ids, prompt_lengths), candidates, lengths, 3)
    for image in range(IMAGES):
        prompt = tuple(ids[image, : prompt_lengths[image]].tolist())
        for text, length, nats in zip(
            candidates[image].tolist(), lengths[image], scores.log_probabilities[image], strict=True
        ):
            expected = log_probability(image, (*prompt, *text[:length]), len(prompt))
            np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-5)


def test_generated_texts_have_the_score_they_are_ranked_by():
    short = dataclasses.replace(DECODING, length=4)
    best = run(Beams(100, 100, length_penalty=1.5), short)  # as in beams_test.py
    count = len(all_texts(short))
    ids, lengths = best.ids[:, :count, 1:], best.lengths[:, :count] - 1
    scores = scored(Prompt(np.full((IMAGES, 1), BOS)), ids, lengths)
    nats = scores.log_probabilities
    np.testing.assert_allclose(nats, best.log_probabilities[:, :count], rtol=1e-4)
    np.testing.assert_allclose(nats / scores.lengths**1.5, best.scores[:, :count], rtol=1e-4)


def test_one_token_needs_no_more_than_the_prompt():
    rows = np.arange(7, dtype=np.int32)[:, None]
    scores = scored(Prompt(jnp.full((IMAGES, 1), BOS)), rows, np.ones(7, np.int32))
    np.testing.assert_allclose(np.exp(scores.log_probabilities).sum(1), 1, rtol=1e-5)


def test_errors():
    with pytest.raises(UserError, match="prompt and candidate is 6"):
        scored(Prompt(np.full((IMAGES, 4), BOS)), ROWS, LENGTHS)
    with pytest.raises(UserError, match="chunk_size is 0"):
        scored(Prompt(np.full((IMAGES, 1), BOS)), ROWS, LENGTHS, chunk_size=0)
