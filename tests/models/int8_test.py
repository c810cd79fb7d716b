"""Matrices as int8: against literal ones, and the bound on what rounding changes."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util
from models.random_params import random_params

from coca_jax.models import PRESETS, int8, make_model
from coca_jax.models.transformer import unstack


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_a_literal_kernel_has_a_scale_for_each_column():
    kernel = np.float32([[1.0, -0.02, 0.0], [-0.4, 0.012, 0.0], [0.25, 0.0, 0.0]])
    tree = int8.quantize({"up": {"kernel": kernel, "bias": kernel[0]}})
    values, scale = tree["up"]["kernel"]["int8"], tree["up"]["kernel"]["scale"]
    np.testing.assert_array_equal(values, [[127, -127, 0], [-51, 76, 0], [32, 0, 0]])
    assert values.dtype == np.int8
    np.testing.assert_allclose(scale, [[1 / 127, 0.02 / 127, 0]], rtol=1e-6)
    np.testing.assert_array_equal(tree["up"]["bias"], kernel[0])
    floats = int8.dequantized(tree)["up"]["kernel"]
    expected = [[1.0, -0.02, 0.0], [-51 / 127, 76 * 0.02 / 127, 0], [32 / 127, 0, 0]]
    np.testing.assert_allclose(floats, expected, rtol=1e-6)


def test_a_literal_embedding_has_a_scale_for_each_row():
    table = np.float32([[2.0, -0.8], [0.0, 0.01]])
    tree = int8.quantize({"decoder": {"embedding": table}})["decoder"]["embedding"]
    np.testing.assert_array_equal(tree["int8"], [[127, -51], [0, 127]])
    np.testing.assert_allclose(tree["scale"], [[2 / 127], [0.01 / 127]], rtol=1e-6)


@pytest.fixture(scope="module")
def params():
    """Of a model with groups of layers."""
    text = dataclasses.replace(PRESETS["tiny"].text, multimodal_layers=4, cross_attention_every=2)
    model = make_model(dataclasses.replace(PRESETS["tiny"], text=text))
    return jax.tree.map(np.asarray, random_params(model))


def test_no_value_is_off_by_more_than_half_a_step(params):
    before, after = flat(params), flat(int8.dequantized(int8.quantize(params)))
    assert before.keys() == after.keys()
    for name, value in before.items():
        if not int8.is_matrix(name):
            assert after[name] is value
            continue
        axis = -1 if name == "decoder/embedding" else -2
        step = np.abs(np.float64(value)).max(axis=axis, keepdims=True) / 127
        assert np.all(np.abs(np.float64(after[name]) - value) <= step * 0.501), name
        assert not np.array_equal(after[name], value)


def test_what_is_stored_takes_little_more_than_a_quarter(params):
    names = {name for name in flat(params) if int8.is_matrix(name)}
    assert names == {
        n for n in flat(params) if n.split("/")[-1] in ("kernel", "embedding", "lm_head")
    }
    sizes = [sum(x.nbytes for n, x in flat(params).items() if n in names)]
    sizes.append(sum(x.nbytes for n, x in flat(int8.quantize(params)).items() if "int8" in n))
    assert sizes[1] * 4 == sizes[0]


def test_parameters_without_int8_are_left_alone(params):
    leaves = zip(jax.tree.leaves(int8.dequantized(params)), jax.tree.leaves(params), strict=True)
    assert all(after is before for after, before in leaves)


def test_layers_apart_have_the_rounded_values_of_their_stacks(params):
    tree = int8.quantize(params)
    expected, values = flat(unstack(int8.dequantized(tree))), flat(int8.dequantized(unstack(tree)))
    assert expected.keys() == values.keys()
    assert "decoder/multimodal/layer_3/mlp/up/kernel" in values
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
