import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_params import random_params
from reference.coca import coca as reference

from coca_jax.models import PRESETS, CoCa, init_params
from coca_jax.models.image_encoder import ImageEncoder
from coca_jax.models.transformer import unstack

TINY = PRESETS["tiny"]


def variant(**changes):
    config = TINY
    for name, value in changes.items():
        if dataclasses.is_dataclass(getattr(config, name)):
            value = dataclasses.replace(getattr(config, name), **value)
        config = dataclasses.replace(config, **{name: value})
    return config


# Cross-attention to all tokens, in the first and the third layer.
EVERY_SECOND = variant(
    pooler={"caption_queries": 0},
    text={"tie_embeddings": True, "multimodal_layers": 4, "cross_attention_every": 2},
)


@functools.cache
def model_and_params(config):
    model = CoCa(config)
    return model, random_params(model)


@functools.cache
def batch(length=12, real=(12, 7, 3)):
    rng = np.random.default_rng(1)
    pixels = rng.standard_normal((len(real), 16, 16, 3)).astype(np.float32)
    ids = rng.integers(1, 64, (len(real), length)).astype(np.int32)
    for row, count in zip(ids, real, strict=True):
        row[count:] = 0
    return jnp.array(pixels), jnp.array(ids)


@functools.cache
def forward(config):
    """The compiled model, of images and texts."""
    model, params = model_and_params(config)
    return functools.partial(jax.jit(model.apply), {"params": params})


@functools.cache
def run(config):
    return forward(config)(*batch())


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        variant(pooler={"kind": "parallel"}),
        EVERY_SECOND,
    ],
    ids=["cascade", "parallel", "no_queries_tied_every_second"],
)
def test_forward_equals_float64_reference(config):
    output = run(config)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), model_and_params(config)[1])
    pixels, ids = jax.device_get(batch())
    for i in range(len(ids)):
        image, text, logits = reference(config, params, pixels[i].astype(np.float64), ids[i])
        real = ids[i] != 0
        np.testing.assert_allclose(output.image_embeddings[i], image, atol=2e-6)
        np.testing.assert_allclose(output.text_embeddings[i], text, atol=2e-6)
        np.testing.assert_allclose(output.logits[i][real], logits[real], atol=2e-5)


@pytest.mark.parametrize(
    "config",
    [TINY, variant(pooler={"caption_queries": 0}), variant(contrastive="none")],
    ids=["both", "no_queries", "captioning_only"],
)
def test_packed_texts_are_as_those_in_rows_of_their_own(config):
    pixels, ids = batch(real=(12, 7, 3, 5))
    apart = forward(config)(pixels, ids)
    rows = [[ids[0], ids[1, :7], ids[0, :1] * 0], [ids[2, :3], ids[3, :5], ids[0] * 0]]
    packed_ids = jnp.stack([jnp.concatenate(row) for row in rows])
    segments = jnp.array([[1] * 12 + [2] * 7 + [0], [1] * 3 + [2] * 5 + [0] * 12])
    packed = forward(config)(pixels, packed_ids, segments=segments)
    for name in ("image_embeddings", "text_embeddings"):
        if getattr(apart, name) is not None:
            np.testing.assert_allclose(getattr(packed, name), getattr(apart, name), atol=2e-6)
    for row, segment, text in [(0, 1, 0), (0, 2, 1), (1, 1, 2), (1, 2, 3)]:
        found = packed.logits[row][segments[row] == segment]
        np.testing.assert_allclose(found, apart.logits[text][ids[text] > 0], atol=2e-5)


def test_padding_changes_neither_embedding_nor_logits():
    pixels, ids = batch()
    short, long = forward(TINY)(pixels, ids[:, :8]), run(TINY)
    assert not ids[1:, 8:].any()
    np.testing.assert_allclose(short.text_embeddings[1:], long.text_embeddings[1:], atol=1e-6)
    np.testing.assert_allclose(short.logits[1:], long.logits[1:, :8], atol=1e-5)


def test_logits_do_not_see_the_future_but_the_embedding_sees_all():
    pixels, ids = batch()
    changed = ids.at[:, 2].set(63 - ids[:, 2])
    before, after = run(TINY), forward(TINY)(pixels, changed)
    np.testing.assert_array_equal(before.logits[:, :2], after.logits[:, :2])
    assert np.abs(before.logits[:, 2] - after.logits[:, 2]).max() > 1e-3
    moved = np.abs(before.text_embeddings - after.text_embeddings).max(axis=1)
    assert (moved > 1e-4).all()


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        (
            {"captioning": False},
            {"caption_pooler", "decoder/multimodal", "decoder/lm_head", "decoder/norm"},
            {"contrastive_pooler", "logit_scale", "decoder/cls"},
        ),
        (
            {"contrastive": "none"},
            {"contrastive_pooler", "logit_scale", "decoder/cls", "decoder/cls_norm"},
            {"caption_pooler", "decoder/multimodal", "decoder/lm_head"},
        ),
        ({"contrastive": "sigmoid"}, set(), {"logit_bias", "logit_scale"}),
        (
            {"embed_dim": 24, "pooler": {"kind": "shared"}, "contrastive": "none"},
            {"image_projection", "text_projection", "contrastive_pooler", "caption_pooler"},
            {"pooler"},
        ),
        (
            {"embed_dim": 24, "pooler": {"kind": "shared"}, "captioning": False},
            {"contrastive_pooler", "caption_pooler", "decoder/multimodal"},
            {"image_projection", "text_projection", "pooler"},
        ),
    ],
)
def test_parts_of_untrained_losses_do_not_exist(changes, absent, present):
    config = variant(**changes)
    shapes = jax.eval_shape(lambda: init_params(CoCa(config), jax.random.key(0)))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
    }

    def exists(part):
        return any(f"{name}/".startswith(part + "/") for name in names)

    assert [part for part in absent if exists(part)] == []
    assert [part for part in present if not exists(part)] == []
    output = jax.eval_shape(
        lambda p: CoCa(config).apply({"params": p}, *batch()), nn.meta.unbox(shapes)
    )
    assert (output.features is None) == (not config.captioning)
    assert (output.image_embeddings is None) == (not config.has_cls)


@pytest.mark.parametrize(
    ("config", "stacked"), [(TINY, True), (EVERY_SECOND, True), (EVERY_SECOND, False)]
)
def test_extending_with_a_cache_equals_one_pass(config, stacked):
    model, params = model_and_params(config)
    if not stacked:
        model, params = CoCa(dataclasses.replace(config, stacked=False)), unstack(params)
    pixels, ids = batch()
    apply = jax.jit(functools.partial(model.apply, {"params": params}), static_argnames="method")
    whole = run(config).logits
    cache = model.apply({"params": params}, 3, 12, method="empty_cache")
    context = apply(pixels, method="image_context")
    first, cache = apply(ids[:, :4], jnp.int32(0), cache, context, method="decode_step")
    second, cache = apply(ids[:, 4:5], jnp.int32(4), cache, method="decode_step")
    third, cache = apply(ids[:, 5:], jnp.int32(5), cache, method="decode_step")
    np.testing.assert_allclose(np.concatenate([first, second, third], 1), whole, atol=2e-5)


def test_texts_share_their_images_keys():
    model, params = model_and_params(TINY)
    pixels, ids = batch()
    texts = jnp.concatenate([ids, ids[::-1]])  # two for each of the three images, in turn
    apply = jax.jit(functools.partial(model.apply, {"params": params}), static_argnames="method")
    expected = apply(jnp.repeat(pixels, 2, axis=0), texts, method="caption_logits")
    np.testing.assert_allclose(
        apply(pixels, texts, method="caption_logits"), expected, rtol=1e-4, atol=1e-5
    )
    cache = model.apply({"params": params}, 6, 12, method="empty_cache")
    context = apply(pixels, method="image_context")
    first, cache = apply(texts[:, :5], jnp.int32(0), cache, context, method="decode_step")
    second, cache = apply(texts[:, 5:], jnp.int32(5), cache, method="decode_step")
    assert cache.multimodal.image.keys.shape[1] == 3
    np.testing.assert_allclose(np.concatenate([first, second], 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stacked", [True, False])
def test_a_cache_selects_among_each_images_texts(stacked):
    params = model_and_params(TINY)[1]
    model = CoCa(dataclasses.replace(TINY, stacked=stacked))
    params = params if stacked else unstack(params)
    apply = jax.jit(functools.partial(model.apply, {"params": params}), static_argnames="method")
    pixels, ids = batch()
    texts = jnp.concatenate([ids, ids[::-1]])
    cache = model.apply({"params": params}, 6, 12, method="empty_cache")
    context = apply(pixels, method="image_context")
    _, cache = apply(texts[:, :4], jnp.int32(0), cache, context, method="decode_step")
    chosen = jnp.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    rows = jnp.array([1, 1, 0, 2, 3, 2, 4, 4, 4])
    found, _ = apply(texts[rows, 4:6], jnp.int32(4), cache.select(chosen), method="decode_step")
    expected, _ = apply(texts[:, 4:6], jnp.int32(4), cache, method="decode_step")
    np.testing.assert_allclose(found, expected[rows], rtol=1e-4, atol=1e-5)


def test_patch_dropout_keeps_the_class_token():
    image = {"class_token": True, "patch_dropout": 0.5, "grid_width": 4, "num_layers": 1}
    encoder = ImageEncoder(variant(image=image), jnp.dtype("float32"))
    pixels = jnp.zeros((1, 16, 32, 3))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    tokens, params = jax.jit(encoder.init_with_output)(rngs, pixels)
    params = nn.meta.unbox(params)
    assert tokens.values.shape == (1, 1 + 4, 32)
    assert encoder.apply(params, pixels).values.shape == (1, 1 + 8, 32)

    @jax.jit
    def used(params, key):
        """Which rows of the positions have a part in the result."""
        encode = functools.partial(encoder.apply, rngs={"dropout": key})
        total = lambda p: jnp.sum(jnp.sin(encode(p, pixels).values))  # noqa: E731
        return jnp.any(jax.grad(total)(params)["params"]["positions"] != 0, axis=1)

    rows = np.stack([used(params, jax.random.key(seed)) for seed in range(5)])
    assert rows[:, 0].all() and (rows.sum(1) == 1 + 4).all()
    assert len(np.unique(rows, axis=0)) > 1


def test_randomness_is_on_exactly_when_a_key_is_given():
    config = variant(dropout=0.2, stochastic_depth=0.3, image={"patch_dropout": 0.5})
    model, params = CoCa(config), model_and_params(TINY)[1]

    @jax.jit
    def logits(seed=None):
        rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, *batch(), rngs=rngs).logits

    np.testing.assert_allclose(logits(), run(TINY).logits, atol=1e-5)
    np.testing.assert_array_equal(logits(1), logits(1))
    assert np.abs(logits(1) - logits(2)).max() > 1e-2


def test_bfloat16_activations_keep_float32_results():
    model, params = CoCa(variant(dtype="bfloat16")), model_and_params(TINY)[1]
    output = jax.jit(model.apply)({"params": params}, *batch())
    assert output.logits.dtype == output.image_embeddings.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(output.text_embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(output.image_embeddings, run(TINY).image_embeddings, atol=0.05)
