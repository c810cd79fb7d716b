import functools

import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import probe
from coca_jax.evaluate.features import Features


def make_features(count, seed, tokens=3, width=8, classes=4, noise=0.5):
    """The class shows in the mean token, plus noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centers = np.random.default_rng(7).normal(size=(classes, 1, width))
    found = centers[labels] + noise * rng.normal(size=(count, tokens, width))
    return Features(found.astype(np.float16), labels)


def fit_and_test(train, test, names, scoring="linear", **options):
    fit = {"linear": probe.fit_linear, "pooler": probe.fit_pooler}[scoring]
    return probe.fit_and_test(train, test, names, functools.partial(fit, **options))


def gradient(features, classify, l2):
    """Of the penalized mean loss by the weights, in float64, written out."""
    x = features.tokens.astype(np.float64).mean(axis=1)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    # The classifier is affine in the standardized means: read it back from its scores.
    scores = np.asarray(classify(features.tokens), np.float64)
    design = np.c_[x, np.ones(len(x))]
    weights = np.linalg.lstsq(design, scores, rcond=None)[0]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(len(x)), features.labels] -= 1
    penalty = np.r_[weights[:-1], np.zeros((1, weights.shape[1]))]
    return design.T @ chances / len(x) + l2 * penalty


def test_the_linear_probe_ends_where_the_gradient_vanishes():
    features = make_features(200, seed=0, noise=1.5)
    classify, _ = probe.fit_linear(features, 4, l2=0.01)
    assert np.abs(gradient(features, classify, 0.01)).max() < 2e-4
    classify, _ = probe.fit_linear(features, 4, 0.01, steps=2)
    assert np.abs(gradient(features, classify, 0.01)).max() > 1e-2


def test_the_best_of_several_penalties_is_fitted_to_all():
    """With more dimensions than examples and mostly noise, too little of it overfits."""
    train, test = (make_features(n, s, width=64, noise=5.0) for n, s in ((120, 0), (400, 1)))
    penalties = [1e-6, 1.0, 1e3]
    alone = [fit_and_test(train, test, list("abcd"), l2=l2)[0]["top1"] for l2 in penalties]
    metrics = fit_and_test(train, test, list("abcd"), l2=tuple(penalties))[0]
    best = int(np.argmax(alone))
    assert metrics["l2"] == penalties[best] and metrics["top1"] == alone[best]
    assert metrics == fit_and_test(train, test, list("abcd"), l2=[penalties[best]])[0]
    easy = make_features(120, 0, width=64)
    assert probe.fit_linear(easy, 4, l2=(0.01, 0.1, 1e-4))[1] == {"l2": 0.1}  # all equally good
    with pytest.raises(UserError, match="l2 is empty"):
        probe.fit_linear(easy, 4, l2=())


def test_a_linear_probe_finds_classes_that_can_be_told_apart():
    train, test = make_features(200, seed=0), make_features(100, seed=1)
    metrics, artifacts = fit_and_test(train, test, list("abcd"))
    assert metrics["top1"] > 0.9 and metrics["train_top1"] > 0.9
    assert metrics["count"] == 100 and metrics["train_count"] == 200
    assert np.sum(artifacts["confusion"]) == 100
    mixed = test._replace(labels=np.roll(test.labels, 1))
    assert fit_and_test(train, mixed, list("abcd"))[0]["top1"] < 0.6


def test_the_pooler_sees_what_the_mean_does_not():
    """The class is the order of two tokens; only what tells tokens apart sees it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    tokens = rng.normal(size=(400, 2, 8))
    tokens[..., 0] = [3, -3]  # which token it is
    sign = np.where(labels, 1, -1)[:, None] * [1, -1]
    tokens[..., 1] = 2 * sign
    features = Features(tokens.astype(np.float16), labels)
    train, test = (
        Features(features.tokens[rows], features.labels[rows])
        for rows in (slice(200), slice(200, None))
    )
    assert fit_and_test(train, test, ["a", "b"])[0]["top1"] < 0.65
    options = {"scoring": "pooler", "steps": 80, "num_heads": 2, "learning_rate": 2e-2}
    test = test._replace(bad_images=3)
    metrics, artifacts = fit_and_test(train, test, ["a", "b"], **options, batch_size=64)
    assert metrics["top1"] > 0.95 and metrics["train_top1"] > 0.95
    assert metrics["count"] == metrics["train_count"] == np.sum(artifacts["confusion"]) == 200
    assert metrics["bad_images"] == 3


def test_a_pooler_of_a_single_step():
    features = make_features(20, seed=0)
    classify, _ = probe.fit_pooler(features, 4, num_heads=2, steps=1, batch_size=4)
    assert np.isfinite(classify(features.tokens)).all()


def test_heads_divide_the_width_of_the_features():
    message = "num_heads=3 should divide the width of the features, 8"
    with pytest.raises(UserError, match=message):
        probe.fit_pooler(make_features(20, seed=0), 4, num_heads=3)


def test_labels_and_names():
    features = make_features(200, seed=0)
    assert fit_and_test(features, features, [])[0]["chance_top1"] == 0.25
    with pytest.raises(UserError, match="label 3 has no class name: there are 2"):
        fit_and_test(features, features, ["a", "b"])
