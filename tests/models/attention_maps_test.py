import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.coca import dense, layer_norm

from coca_jax.models import PRESETS, CoCa, attention_maps, init_params
from coca_jax.models.layers import LayerNorm
from coca_jax.models.transformer import unstack

TINY = dataclasses.replace(
    PRESETS["tiny"],
    image=dataclasses.replace(PRESETS["tiny"].image, num_layers=1),
    text=dataclasses.replace(PRESETS["tiny"].text, unimodal_layers=1),
)
OPEN_CLIP = {
    "image": {"class_token": True, "pre_norm": True, "grid_width": 3},
    "text": {"interleaved": True},
    "pooler": {"kind": "shared", "query_norm": True},
}
CHANGES = {
    "cascade": {},
    "parallel": {"pooler": {"kind": "parallel"}},
    "shared": {"pooler": {"kind": "shared"}, "remat": "full"},
    "shared, captions only": {"pooler": {"kind": "shared"}, "contrastive": "none"},
    "no queries": {
        "pooler": {"caption_queries": 0},
        "image": {"class_token": True},
        "text": {"multimodal_layers": 4, "cross_attention_every": 2},
    },
    "open_clip": OPEN_CLIP,
}


def variant(**changes):
    sections = {k: v for k, v in changes.items() if isinstance(v, dict)}
    replaced = {k: dataclasses.replace(getattr(TINY, k), **v) for k, v in sections.items()}
    return dataclasses.replace(TINY, **(changes | replaced))


@functools.cache
def case(name):
    """A model with layers apart, its parameters, two images and a text for each."""
    config = variant(**CHANGES[name])
    shapes = jax.eval_shape(lambda: nn.meta.unbox(init_params(CoCa(config), jax.random.key(0))))
    rng = np.random.default_rng(0)
    # Larger than at the start, so that attention is uneven.
    params = jax.tree.map(lambda x: jnp.float32(0.4 * rng.standard_normal(x.shape)), shapes)
    pixels = rng.standard_normal((2, *config.image.pixels, 3)).astype(np.float32)
    ids = rng.integers(1, 64, (2, 7)).astype(np.int32)
    return config, params, jnp.array(pixels), jnp.array(ids)


def maps_of(config, params, pixels, ids):
    run = jax.jit(functools.partial(attention_maps, CoCa(config)))
    return np.asarray(run(params, pixels, ids))


def looks(x, source, p, heads):
    """Float64 weights of one attention layer, one example: the mean of its heads [t, s]."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
    query, key = dense(np.float64(x), p["query"]), dense(np.float64(source), p["key"])
    total = 0
    for q, k in zip(np.split(query, heads, 1), np.split(key, heads, 1), strict=True):
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        total = total + scores / scores.sum(axis=1, keepdims=True)
    return total / heads


def inputs(config, params, pixels, ids):
    """The inputs of each layer's cross-attention and of the pooler, from the model itself."""
    model = CoCa(config)
    keep = lambda module, _: isinstance(module, LayerNorm)  # noqa: E731

    @jax.jit
    def run(params):
        apply = functools.partial(model.apply, {"params": params}, pixels)
        kept = {"capture_intermediates": keep, "mutable": ["intermediates"]}
        _, state = apply(ids, method="caption_logits", **kept)
        norms = state["intermediates"]["decoder"]["multimodal"]
        return norms, apply(method="image_tokens"), apply(method="image_context")

    norms, tokens, context = run(params)
    norms = {name: found for name, found in norms.items() if "cross_attention_norm" in found}
    queries = [found["cross_attention_norm"]["__call__"][0] for found in norms.values()]
    if config.text.interleaved:
        return queries, [found["context_norm"]["__call__"][0] for found in norms.values()], tokens
    return queries, [context] * len(queries), tokens


def expected(config, params, pixels, ids):
    """By the formula, from what stands in front of the attention layers."""
    pooler = config.pooler
    queries, contexts, tokens = inputs(config, params, pixels, ids)
    layers = params["decoder"]["multimodal"].values()
    layers = [layer["cross_attention"] for layer in layers if "cross_attention" in layer]
    result = []
    for i in range(len(ids)):
        read = zip(queries, contexts, layers, strict=True)
        weights = np.mean([looks(q[i], c[i], p, config.text.num_heads) for q, c, p in read], axis=0)
        if pooler.caption_queries:
            p = params["pooler" if pooler.kind == "shared" else "caption_pooler"]
            asked = np.asarray(p["queries"])[-pooler.caption_queries :]
            asked = (
                layer_norm(asked, jax.tree.map(np.asarray, p["query_norm"]))
                if pooler.query_norm
                else asked
            )
            weights = weights @ looks(asked, tokens[i], p["attention"], pooler.num_heads)
        weights = weights[:, -config.image.patches :]
        result.append(weights / weights.sum(axis=1, keepdims=True))
    return np.reshape(result, (*ids.shape, *config.image.grid))


@pytest.mark.parametrize("name", CHANGES)
def test_maps_are_the_float64_products_of_weights(name):
    config, params, pixels, ids = case(name)
    apart = dataclasses.replace(config, stacked=False), unstack(jax.device_get(params))
    wanted = expected(*apart, pixels, ids)
    models = [(config, params)] + [apart] * (name == "open_clip")  # layers in one array, or apart
    for model in models:
        maps = maps_of(*model, pixels, ids)
        np.testing.assert_allclose(maps, wanted, atol=2e-6)
        np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-6)
    assert maps.std(axis=(2, 3)).min() > 1e-3  # they are no even maps


def test_a_position_looks_where_its_prefix_makes_it_and_only_at_its_image():
    config, params, pixels, ids = case("cascade")
    later, other = ids.at[:, 4].set(63 - ids[:, 4]), pixels.at[1].set(-pixels[1])
    maps = maps_of(config, params, pixels, ids)
    np.testing.assert_array_equal(maps_of(config, params, pixels, later)[:, :4], maps[:, :4])
    changed = maps_of(config, params, other, ids)
    np.testing.assert_array_equal(changed[0], maps[0])
    assert np.abs(changed[1] - maps[1]).max() > 1e-3
