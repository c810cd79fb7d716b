"""LoRA's factors: by `Dense`, merged, and by NumPy; which parameters have them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from models.random_params import random_params

from coca_jax.errors import UserError
from coca_jax.models import PRESETS, init_params, lora, make_model

LAYERS = (r".*/(query|value|out|up|down)/kernel",)
RANK, SCALE = 2, 1.5


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def parts():
    """A model with groups of layers; random trained and frozen parameters, factors among them."""
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(tiny.text, multimodal_layers=4, cross_attention_every=2)
    model = make_model(dataclasses.replace(tiny, text=text))
    boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    split = jax.eval_shape(
        lambda p: lora.split(p, RANK, LAYERS, (".*norm.*", "logit_scale"), jax.random.key(0)), boxed
    )
    values, rng = flat(random_params(model)), np.random.default_rng(0)

    def fill(path, leaf):
        if path in values:
            return jnp.asarray(values[path])
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.1, jnp.float32)

    trained, frozen = (
        traverse_util.unflatten_dict(
            {path: fill(path, leaf) for path, leaf in flat(nn.meta.unbox(tree)).items()}, sep="/"
        )
        for tree in split
    )
    return model, values, trained, frozen


def test_every_parameter_is_frozen_or_trained_once(parts):
    _, values, trained, frozen = parts
    whole = {name for name in flat(trained) if not name.startswith("lora/")}
    assert whole | flat(frozen).keys() == values.keys() and not whole & flat(frozen).keys()
    assert whole == {n for n in values if "norm" in n or n == "logit_scale"}
    layers = ("query", "value", "out", "up", "down")
    kernels = {n for n in values if n.endswith(tuple(f"/{layer}/kernel" for layer in layers))}
    assert {lora.name_of(n) for n in flat(trained) if n.startswith("lora/")} == kernels != set()


def test_kernels_are_merged_as_numpy_merges_them(parts):
    _, values, trained, frozen = parts
    factors = flat(trained["lora"])
    merged = flat(lora.merged(frozen, trained, SCALE))
    assert merged.keys() == values.keys()
    for name, value in values.items():
        if f"{name}/a" not in factors:
            np.testing.assert_array_equal(merged[name], value)
            continue
        a, b = (np.asarray(factors[f"{name}/{part}"], np.float64) for part in "ab")
        expected = np.asarray(value, np.float64) + SCALE * np.einsum("...ir,...ro->...io", a, b)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-6)
        assert np.abs(merged[name] - value).max() > 0.01


@pytest.mark.parametrize("changes", [{}, {"scan_unroll": 9, "remat": "full"}])
def test_factors_in_the_layers_are_those_merged_into_kernels(parts, changes):
    model, _, trained, frozen = parts
    model = make_model(dataclasses.replace(model.config, **changes))
    rng = np.random.default_rng(1)
    pixels = jnp.asarray(rng.normal(size=(2, *model.config.pixels)), jnp.float32)
    ids = jnp.asarray(rng.integers(1, 60, (2, model.config.text.context_length)), jnp.int32)
    apply = jax.jit(lambda variables: model.apply(variables, pixels, ids))
    in_layers = apply(lora.variables(frozen, trained, SCALE))
    merged = apply({"params": lora.merged(frozen, trained, SCALE)})
    without = apply({"params": lora.model_params(frozen, trained)})
    for name in ("image_embeddings", "text_embeddings", "features"):
        found, expected, base = (getattr(x, name) for x in (in_layers, merged, without))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
        assert np.abs(found - base).max() > 1e-2


def test_a_new_factor_changes_nothing(parts):
    params = traverse_util.unflatten_dict(parts[1], sep="/")
    trained, frozen = lora.split(params, RANK, LAYERS, (), jax.random.key(1))
    merged = lora.merged(frozen, trained, SCALE)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    stds = [np.std(x) * x.shape[-2] ** 0.5 for n, x in flat(trained).items() if n.endswith("/a")]
    np.testing.assert_allclose(stds, 1, atol=0.4)  # of few numbers
    np.testing.assert_allclose(np.mean(stds), 1, atol=0.1)


def test_heads_are_trained_in_full():
    matrix = np.ones((4, 3), np.float32)
    heads = {"head": {"pooler": {"out": {"kernel": matrix}}}, "matching_head": {"kernel": matrix}}
    params = heads | {"decoder": {"lm_head": matrix, "up": {"kernel": matrix}}}
    trained, frozen = lora.split(params, RANK, (".*",), (), jax.random.key(0))
    assert {n for n in flat(trained) if not n.startswith("lora/")} == flat(heads).keys()
    assert flat(trained["lora"]).keys() == {f"decoder/up/kernel/{part}" for part in "ab"}
    assert flat(frozen).keys() == {"decoder/lm_head", "decoder/up/kernel"}


@pytest.mark.parametrize(
    ("layers", "full", "message"),
    [
        (
            ("decoder/.*/gate/kernel",),
            (),
            "/gate/kernel' matches no kernel; there are .*/kernel",
        ),
        ((".*/bias",), (), "matches no kernel"),
        (LAYERS, ("nothing",), "config.lora.full: 'nothing' matches no parameter"),
        (LAYERS, (".*/up/.*",), "config.lora.full matches .*/up/kernel, which config.lora.layers"),
    ],
)
def test_patterns_that_fit_nothing_name_what_is_there(parts, layers, full, message):
    params = traverse_util.unflatten_dict(parts[1], sep="/")
    with pytest.raises(UserError, match=message):
        lora.split(params, RANK, layers, full, jax.random.key(0))
