import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_params import random_params

from coca_jax.models import PRESETS, HeadConfig, PooledClassifier, make_model

TINY = PRESETS["tiny"]
ALONE = {"contrastive": "none", "captioning": False}


def described(head, **changes):
    return dataclasses.replace(TINY, head=head, **changes)


@functools.cache
def model_and_params(config):
    model = make_model(config)
    return model, random_params(model)


def classify(config, pixels, ids, read=None):
    return np.asarray(applied(config, pixels, ids, read, method="classify"))


def applied(config, *arrays, params=None, method=None):
    params = params or model_and_params(config)[1]
    return program(config, method)({"params": params}, *jax.tree.map(jnp.asarray, arrays))


@functools.cache
def program(config, method):
    return jax.jit(functools.partial(make_model(config).apply, method=method))


def pixels(*shape):
    return np.random.default_rng(1).standard_normal((*shape, 16, 16, 3)).astype(np.float32)


def texts(rows, length=12):
    return np.random.default_rng(2).integers(1, 64, (rows, length)).astype(np.int32)


def layer_norm(x, parameters):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * parameters["scale"] + parameters["bias"]


def pooled_in_float64(tokens, mask, parameters, heads):
    """One group of one example: softmax(q k) v by loops over heads."""

    def project(x, name):
        return x @ attention[name]["kernel"] + attention[name]["bias"]

    attention, width = parameters["attention"], parameters["queries"].shape[-1]
    query, keys = project(parameters["queries"], "query"), project(tokens, "key")
    values, size, found = project(tokens, "value"), width // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = query[:, part] @ keys[:, part].T / np.sqrt(size)
        weights = np.exp(logits - logits.max()) * mask
        found.append(weights / weights.sum() @ values[:, part])
    return layer_norm(project(np.concatenate(found, axis=1), "out"), parameters["norm"])[0]


def test_groups_are_pooled_apart_and_joined():
    head, rng = PooledClassifier(classes=5, width=16, num_heads=4), np.random.default_rng(0)
    tokens = rng.standard_normal((3, 2, 7, 8)).astype(np.float32)
    mask = rng.random((3, 2, 7)) < 0.6
    mask[..., 0] = True
    params = head.init(jax.random.key(0), jnp.array(tokens), jnp.array(mask))
    found = head.apply(params, jnp.array(tokens), jnp.array(mask))
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), nn.meta.unbox(params["params"]))
    for row in range(3):
        groups = [
            pooled_in_float64(tokens[row, g], mask[row, g], exact["pooler"], heads=4)
            for g in range(2)
        ]
        expected = np.concatenate(groups) @ exact["softmax"]["kernel"] + exact["softmax"]["bias"]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "changes", "parts"),
    [
        (HeadConfig(3), ALONE, {"image_encoder", "head"}),
        (HeadConfig(3, num_images=2), ALONE, {"image_encoder", "head", "head_image_positions"}),
        (
            HeadConfig(3, "text"),
            {"contrastive": "none"},
            {"image_encoder", "caption_pooler", "decoder", "head"},
        ),
    ],
)
def test_only_what_a_head_reads_exists(head, changes, parts):
    assert set(model_and_params(described(head, **changes))[1]) == parts


def test_a_head_leaves_the_model_as_it_is():
    plain, with_head = TINY, described(HeadConfig(3, "text"))
    _, params = model_and_params(with_head)
    rest = {name: value for name, value in params.items() if name != "head"}
    image, ids = pixels(2), texts(2)
    expected, found = applied(plain, image, ids, params=rest), applied(with_head, image, ids)
    for name in ("image_embeddings", "text_embeddings", "features"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)
    np.testing.assert_allclose(found.class_logits, classify(with_head, image, ids), atol=1e-6)


def test_text_that_may_not_be_read_changes_nothing():
    config, image, ids = described(HeadConfig(3, "text")), pixels(2), texts(2)
    read, other = np.array([4, 7], np.int32), ids.copy()
    other[0, 4:], other[1, 7:] = 5, 6
    np.testing.assert_allclose(
        classify(config, image, ids, read), classify(config, image, other, read), atol=1e-6
    )
    assert not np.allclose(classify(config, image, ids), classify(config, image, other), atol=1e-3)


def test_padding_is_not_read():
    config, image, ids = described(HeadConfig(3, "text")), pixels(2), texts(2)
    ids[:, 5:] = 0
    short = classify(config, image, ids[:, :5])
    np.testing.assert_allclose(classify(config, image, ids), short, atol=1e-5)


def test_each_of_two_images_is_read_with_the_text():
    config = described(HeadConfig(3, "text", num_images=2), contrastive="none")
    image, ids = pixels(2, 2), texts(2)
    assert not np.allclose(
        classify(config, image, ids), classify(config, image[:, ::-1], ids), atol=1e-3
    )
    _, params = model_and_params(config)
    one = dataclasses.replace(config, head=None)
    features = [applied(one, image[:, i], ids, params=params).features for i in range(2)]
    head = PooledClassifier(3, 32, 4)
    expected = head.apply({"params": params["head"]}, jnp.stack(features, axis=1))
    np.testing.assert_allclose(classify(config, image, ids), expected, atol=1e-5)
    trained = applied(config, image, ids, params=params).class_logits
    np.testing.assert_allclose(trained, expected, atol=1e-5)


def test_frames_have_an_order_once_it_is_learned():
    config = described(HeadConfig(3, num_images=4), **ALONE)
    _, params = model_and_params(config)
    clip, ids = pixels(2, 4), texts(2)
    params = params | {"head_image_positions": np.zeros_like(params["head_image_positions"])}

    def found(params, clip):
        return applied(config, clip, ids, params=params).class_logits

    # As the paper's pooler, a new one knows no order.
    np.testing.assert_allclose(found(params, clip), found(params, clip[:, ::-1]), atol=1e-5)
    learned = params | {"head_image_positions": np.eye(4, 32, dtype=np.float32)}
    assert not np.allclose(found(learned, clip), found(learned, clip[:, ::-1]), atol=1e-3)
