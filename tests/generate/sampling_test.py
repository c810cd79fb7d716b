import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generate.tiny import (
    BOS,
    DECODING,
    EOS,
    IMAGES,
    LENGTH,
    PAD,
    PROMPTS,
    VOCAB,
    all_texts,
    allowed,
    log_probabilities,
    log_probability,
    logits,
    make_pixels,
    plain,
    run,
    uneven_prompts,
)

from coca_jax.errors import UserError
from coca_jax.generate import Beams, Greedy, Sampling
from coca_jax.generate.decoding import Step
from coca_jax.generate.ranking import nucleus

SAMPLES, SHORT = 4000, dataclasses.replace(DECODING, length=4)
RESTRICTED = Sampling(SAMPLES, temperature=1.5, top_k=4, top_p=0.8)


def followed(table, text, decoding):
    """Greedy decoding from a prompt on."""
    text = (*text, int(allowed(table[text], text, decoding).argmax()))
    if text[-1] == EOS or len(text) == decoding.length:
        return text
    return followed(table, text, decoding)


@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.7, "min_length": 3}])
def test_greedy_takes_the_token_of_the_greatest_logit(changes):
    decoding = dataclasses.replace(DECODING, **changes)
    generated = run(Greedy(), decoding, uneven_prompts())
    expected = [followed(t, p, decoding) for t, p in zip(logits(), PROMPTS, strict=True)]
    assert plain(generated) == [[text] for text in expected]
    assert len({len(text) for text in expected}) > 1
    assert np.all(
        generated.ids[np.arange(LENGTH) >= generated.lengths[..., None]] == decoding.pad_id
    )
    nats = [log_probability(i, expected[i], len(prompt)) for i, prompt in enumerate(PROMPTS)]
    np.testing.assert_allclose(generated.log_probabilities[:, 0], nats, rtol=1e-4)
    np.testing.assert_array_equal(generated.scores, generated.log_probabilities)


def token_probabilities(nats, method):
    """Of the next token, by sorting."""
    nats = nats / method.temperature
    order = np.argsort(-nats)
    order = order[: method.top_k or None]
    p = np.exp(nats[order]) / np.exp(nats[order]).sum()
    kept = np.searchsorted(np.cumsum(p), method.top_p) + 1
    result = np.zeros(len(nats))
    result[order[:kept]] = p[:kept] / p[:kept].sum()
    return result


def text_probability(image, text, method):
    table, p = log_probabilities()[image], 1.0
    for t in range(1, len(text)):
        p *= token_probabilities(allowed(table[text[:t]], (), SHORT), method)[text[t]]
    return p


def test_frequencies_are_the_exact_probabilities():
    generated = run(RESTRICTED, SHORT, key=jax.random.key(0), pixels=make_pixels()[:2])
    for image, drawn in enumerate(plain(generated)):
        texts = all_texts(SHORT)
        expected = SAMPLES * np.array([text_probability(image, x, RESTRICTED) for x in texts])
        assert expected.sum() == pytest.approx(SAMPLES)
        counts = np.array([drawn.count(x) for x in texts])
        assert counts[expected == 0].sum() == 0
        rare = expected < 5
        expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
        counts = np.append(counts[~rare], counts[rare].sum())
        chi_squared = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
        freedom = len(expected) - 1
        assert freedom > 10 and chi_squared < freedom + 4 * np.sqrt(2 * freedom)
        nats = [log_probability(image, x) for x in drawn[:50]]
        np.testing.assert_allclose(generated.log_probabilities[image, :50], nats, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others():
    key, pixels, method = jax.random.key(3), make_pixels(), Sampling(5)
    generated = run(method, key=key, pixels=pixels)
    among_others = run(method, key=key, pixels=pixels.at[3:].set(make_pixels(seed=1)[3:]))
    np.testing.assert_array_equal(among_others.ids[:3], generated.ids[:3])
    assert np.any(among_others.ids[3:] != generated.ids[3:]) and len(set(plain(generated)[1])) > 1
    assert np.any(run(method, key=jax.random.key(4), pixels=pixels).ids != generated.ids)


def test_the_nucleus_is_counts_as_by_sorting():
    rng = np.random.default_rng(0)
    p = np.float32(rng.dirichlet(np.full(500, 0.1), size=40))
    for top_p in (1e-6, 0.3, 0.9, 0.999):
        in_nucleus = np.asarray(nucleus(jnp.asarray(p), top_p))
        for row, kept in zip(np.float64(p), in_nucleus, strict=True):
            order = np.argsort(-row)
            count = np.searchsorted(np.cumsum(row[order]), top_p) + 1
            np.testing.assert_array_equal(np.sort(order[:count]), np.flatnonzero(kept))


def chosen(method, decoding=DECODING):
    """Random logits, and the tokens that the method draws by them at position 3."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((IMAGES, method.texts, VOCAB)).astype(np.float32)
    ids = rng.integers(0, VOCAB, (IMAGES, method.texts, LENGTH)).astype(np.int32)
    step = Step(jnp.int32(3), logits, ids, jnp.ones(IMAGES, jnp.int32), jax.random.key(0))

    @jax.jit
    def choose(step):
        _, tokens, state = method.choose(decoding, step, method.start(IMAGES, decoding))
        return tokens, state.log_probabilities

    tokens, nats = choose(step)
    assert np.all(np.isfinite(nats))
    return logits, np.asarray(tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-38, "top_p": 0.9},
        {"temperature": 1e-300, "top_k": 10**9, "top_p": 1 - 1e-12},
        {"top_k": 3, "top_p": 1e-300},
    ],
)
def test_in_the_limit_sampling_is_greedy(settings):
    logits, tokens = chosen(Sampling(20, **settings))
    logits[..., [BOS, PAD]] = -np.inf
    np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))


def test_in_the_other_limit_all_allowed_tokens_are_alike():
    _, tokens = chosen(Sampling(SAMPLES, temperature=1e300))
    tokens, counts = np.unique(tokens, return_counts=True)
    assert tokens.tolist() == [EOS, 3, 4, 5, 6]
    np.testing.assert_allclose(counts / counts.sum(), 0.2, atol=0.02)


@pytest.mark.parametrize(
    ("penalty", "method"), [(1e-300, Sampling(50)), (1e300, Sampling(50)), (1e300, Beams(3, 3))]
)
def test_no_repetition_penalty_makes_a_forbidden_token_possible(penalty, method):
    decoding = dataclasses.replace(DECODING, repetition_penalty=penalty, min_length=4)
    generated = run(method, decoding, key=jax.random.key(0))
    assert np.all(generated.lengths >= 4) and not np.any(generated.ids[..., 1:4] < 3)
    assert np.all(np.isfinite(generated.log_probabilities))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"temperature": np.inf}, "temperature is inf; it must be positive and finite"),
        ({"temperature": np.nan}, "temperature is nan"),
        ({"top_p": np.nan}, "top_p is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(UserError, match=message):
        Sampling(**settings)


def test_sampling_needs_a_key():
    with pytest.raises(UserError, match="pass a key"):
        run(Sampling())
