import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.models import CoCa, CoCaConfig, attention, init_params, preset
from coca_jax.models.attention import (
    cached_mask,
    causal_mask,
    causal_mask_with_cls,
    segment_context_mask,
    segment_mask,
    segment_positions,
    with_even_lengths,
)
from coca_jax.models.transformer import Transformer, pad_to_even_length

# The tiny model, with enough tokens for fused attention on TPUs.
LONG_ENOUGH = preset("tiny") | {
    "image": preset("tiny")["image"] | {"size": 32},
    "pooler": preset("tiny")["pooler"] | {"caption_queries": 8},
}
SOFTMAX = re.compile(r"stablehlo\.exponential %\S+ : tensor<(?:\d+x){2,}(\d+x)\d+xf")


def test_causal_mask():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_cls_sees_itself_and_the_real_tokens_and_nobody_sees_it():
    valid = jnp.array([[True, True, False], [True, True, True]])
    mask = causal_mask_with_cls(valid)[:, 0]
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]])
    np.testing.assert_array_equal(mask[1], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_the_shifted_mask_is_one_place_beside():
    valid = jnp.array([[True, True, False], [True, True, True]])
    mask = causal_mask_with_cls(valid, shifted=True)[:, 0]
    np.testing.assert_array_equal(mask[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]])
    np.testing.assert_array_equal(mask[1], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_packed_texts_do_not_see_each_other():
    segments = jnp.array([[1, 1, 2, 0]])
    np.testing.assert_array_equal(segment_positions(segments)[0], [0, 1, 0, 0])
    tokens = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(segment_mask(segments, 0)[0, 0], tokens)
    with_cls = segment_mask(segments, 2)[0, 0]
    np.testing.assert_array_equal(with_cls[:4, :4], tokens)
    assert not with_cls[:4, 4:].any()
    np.testing.assert_array_equal(with_cls[4:], [[1, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1]])
    # Two images of two tokens each; padding reads the first.
    images = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]
    np.testing.assert_array_equal(segment_context_mask(segments, 2, 2)[0, 0], images)


def test_cached_mask_sees_what_is_written_up_to_each_query():
    np.testing.assert_array_equal(
        cached_mask(jnp.int32(1), 2, 4)[0, 0], [[1, 1, 0, 0], [1, 1, 1, 0]]
    )


@pytest.mark.parametrize("masked", ["no", "yes", "keys"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 6), (5, 5), (6, 6), (4, 7)])
def test_padding_to_even_lengths_changes_nothing(queries, keys, masked):
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.standard_normal((2, length, 2, 8)), jnp.float32)
        for length in (queries, keys, keys)
    )
    rows = 1 if masked == "keys" else queries
    mask = None if masked == "no" else jnp.asarray(rng.random((2, 1, rows, keys)) < 0.7)
    mask = mask if mask is None else mask.at[..., 0].set(True)

    def total(padded, *arrays):
        attend = functools.partial(with_even_lengths, implementation="xla")
        attend = attend if padded else jax.nn.dot_product_attention
        return jnp.sum(jnp.sin(attend(*arrays, mask=mask)))

    expected, plain = jax.value_and_grad(total, (1, 2, 3))(False, query, key, value)
    found, padded = jax.value_and_grad(total, (1, 2, 3))(True, query, key, value)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(padded, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def lowered(platform, **changes):
    """The gradient of CoCa's outputs as JAX lowers it for a platform, which need not be here."""
    model = CoCa(CoCaConfig.from_dict(LONG_ENOUGH, dtype="bfloat16", stacked=False, **changes))

    def total(params, pixels, ids):
        out = model.apply({"params": params}, pixels, ids)
        return sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(out))

    def everything(key, pixels, ids):
        return jax.grad(total)(nn.meta.unbox(init_params(model, key)), pixels, ids)

    arguments = (jax.random.key(0), jnp.zeros((2, *model.config.pixels)))
    ids = jnp.ones((2, model.config.text.context_length), jnp.int32)
    return (
        jax.jit(everything).trace(*arguments, ids).lower(lowering_platforms=(platform,)).as_text()
    )


def test_every_attention_of_the_model_can_be_fused(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: float(least) <= 9)
    fused = lowered("cuda", attention="cudnn")
    assert "__cudnn$fmhaSoftmax(" in fused and "__cudnn$fmhaSoftmaxBackward(" in fused
    # No softmax over [batch, heads, queries, keys] is left beside them.
    assert not SOFTMAX.search(fused)
    plain = lowered("cuda", attention="xla")
    assert "__cudnn$" not in plain and SOFTMAX.search(plain)


def test_every_attention_of_more_than_one_query_is_fused_on_tpus():
    fused = lowered("tpu", attention="pallas")
    for name in ("forward", "backward"):
        assert f'kernel_name = "dot_product_attention_{name}"' in fused
    assert {match[1] for match in SOFTMAX.finditer(fused)} == {"1x"}  # the contrastive pooler's


def test_cross_attention_of_a_stream_of_odd_length_keeps_its_mask(monkeypatch):
    layers = Transformer(1, num_heads=2, mlp_dim=8, cross=True, dtype=jnp.dtype("float32"))
    rng = np.random.default_rng(0)
    x, context = (jnp.float32(rng.standard_normal((2, n, 4))) for n in (5, 6))
    masks = causal_mask(5), context, segment_context_mask(jnp.array([[1, 1, 2, 2, 0]] * 2), 2, 3)
    params = layers.init(jax.random.key(0), x, *masks)
    expected, _ = layers.apply(params, x, *masks)
    monkeypatch.setattr(
        attention,
        "dot_product_attention",
        lambda query, keys, values, mask, _: jax.nn.dot_product_attention(
            query, keys, values, mask=mask
        ),
    )
    found, _ = layers.clone(attention="cudnn").apply(params, x, *masks)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("masked", ["no", "causal", "keys"])
def test_a_stream_of_even_length_has_the_same_first_positions(masked, monkeypatch):
    layers = Transformer(1, num_heads=2, mlp_dim=8, dtype=jnp.dtype("float32"))
    x = jnp.float32(np.random.default_rng(0).standard_normal((2, 5, 4)))
    keys = jnp.arange(5)[None] < jnp.array([[5], [3]])
    mask = {"no": None, "causal": causal_mask(5), "keys": keys[:, None, None]}[masked]
    params = layers.init(jax.random.key(0), x)
    even, even_mask = pad_to_even_length(x, mask)
    assert even.shape == (2, 6, 4)
    expected, _ = layers.apply(params, x, mask)
    padded, _ = layers.apply(params, even.at[:, 5].set(9.0), even_mask)
    np.testing.assert_allclose(padded[:, :5], expected, atol=1e-6)
    unchanged, _ = pad_to_even_length(even, None)
    assert unchanged is even

    def on_a_cpu(query, keys, values, mask, implementation):
        assert implementation == "cudnn" and query.shape[1] == keys.shape[1] == 6
        return jax.nn.dot_product_attention(query, keys, values, mask=mask)

    monkeypatch.setattr(attention, "dot_product_attention", on_a_cpu)
    trimmed, _ = layers.clone(attention="cudnn").apply(params, x, mask)
    np.testing.assert_allclose(trimmed, expected, atol=1e-6)
