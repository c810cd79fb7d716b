import dataclasses

import numpy as np
import pytest
from generate.tiny import (
    DECODING,
    EOS,
    IMAGES,
    PROMPTS,
    all_texts,
    allowed,
    log_probabilities,
    log_probability,
    plain,
    run,
    uneven_prompts,
)

from coca_jax.errors import UserError
from coca_jax.generate import Beams


def searched(table, prompt, decoding, beams):
    """Beam search with lists: [(score, log-probability, text)], the best first."""
    running, finished = [(0.0, 0.0, prompt)], []
    for length in range(len(prompt) + 1, decoding.length + 1):
        divisor = (length - len(prompt)) ** beams.length_penalty
        grown = []
        for total, nats, text in running:
            choice = allowed(table[text], text, decoding)
            grown += [
                (total + choice[token], nats + table[text][token], (*text, token))
                for token in np.flatnonzero(choice > -np.inf).tolist()
            ]
        grown = sorted(grown, reverse=True)[: 2 * beams.beams]
        ends = [x for x in grown[: beams.beams] if x[2][-1] == EOS or length == decoding.length]
        finished += [(total / divisor, nats, text) for total, nats, text in ends]
        finished = sorted(finished, reverse=True)[: beams.beams]
        running = [x for x in grown if x[2][-1] != EOS][: beams.beams]
        full = len(finished) == beams.beams
        if full and (beams.early_stopping or running[0][0] / divisor <= finished[-1][0]):
            break
    return finished[: beams.n_best]


SETTINGS = {
    "default": (Beams(3, n_best=3), {}),
    "early": (Beams(2, 2, length_penalty=2.0, early_stopping=True), {}),
    "varied": (Beams(4, 4, length_penalty=-0.5), {"repetition_penalty": 1.7, "min_length": 3}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_a_search_with_lists_without_a_cache(name):
    beams, changes = SETTINGS[name]
    decoding = dataclasses.replace(DECODING, **changes)
    generated = run(beams, decoding, uneven_prompts())
    expected = [
        searched(table, prompt, decoding, beams)
        for table, prompt in zip(log_probabilities(), PROMPTS, strict=True)
    ]
    assert plain(generated) == [[text for _, _, text in best] for best in expected]
    scores, nats = (np.array([[x[i] for x in best] for best in expected]) for i in (0, 1))
    np.testing.assert_allclose(generated.scores, scores, rtol=1e-4)
    np.testing.assert_allclose(generated.log_probabilities, nats, rtol=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.5])
def test_enough_beams_rank_all_texts(length_penalty):
    decoding = dataclasses.replace(DECODING, length=4)
    texts = all_texts(decoding)
    generated = run(Beams(100, 100, length_penalty), decoding)
    for image in range(IMAGES):
        nats = np.array([log_probability(image, text) for text in texts])
        scores = nats / np.array([len(text) - 1 for text in texts]) ** length_penalty
        order = np.argsort(-scores)
        assert plain(generated)[image][: len(texts)] == [texts[i] for i in order]
        np.testing.assert_allclose(generated.scores[image, : len(texts)], scores[order], rtol=1e-4)
        assert np.all(generated.scores[image, len(texts) :] == -np.inf)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams is 0; it must be a whole number, at least 1"),
        ({"beams": 3, "n_best": 4}, "n_best is 4; it must be from 1 to beams = 3"),
        ({"n_best": 0}, "n_best is 0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be from -10 to 10"),
        ({"length_penalty": 1e9}, "length_penalty is 1000000000.0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(UserError, match=message):
        Beams(**settings)
