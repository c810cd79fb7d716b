"""Training with matmuls of few bits: near the plain gradient, and really of few bits."""

import functools
import sys

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from train.step_test import (
    gradient_of,
    host_params,
    make_batch,
    make_config,
    partitioner_of,
)

from coca_jax.config import model_config
from coca_jax.errors import UserError
from coca_jax.models import CoCa
from coca_jax.train.program import make_program
from coca_jax.train.quantization import quantized

# How far the whole gradient may be off, relative to its length.
TOLERANCE = {"int8": 0.05, "fp8": 0.25}


# One of the two kinds computes activations again.
REMAT = {"": "none", "int8": "full", "fp8": "none"}


@functools.cache
def traced(name):
    """The program of the gradient, and what it computes."""
    config = make_config(**{"model.remat": REMAT[name]})
    params, model = host_params(model_config(config)), CoCa(model_config(config))
    compute = gradient_of(config, quantized(model, name))
    program = jax.jit(lambda p, b: compute(p, b, jax.random.key(0))).trace(params, make_batch())
    return program.jaxpr, jax.device_get(program.lower().compile()(params, make_batch()))


def flat(tree):
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("name", TOLERANCE)
def test_the_gradient_is_near_the_plain_one(name):
    expected, expected_metrics = traced("")[1]
    found, metrics = traced(name)[1]
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, expected)
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=0.05)
    a, b = flat(found), flat(expected)
    assert 0 < np.linalg.norm(a - b) / np.linalg.norm(b) < TOLERANCE[name]


@pytest.mark.parametrize("name", TOLERANCE)
def test_the_layers_products_are_of_few_bits(name):
    jaxpr = traced(name)[0]
    few = {"int8": {"int8"}, "fp8": {"float8_e4m3fn", "float8_e5m2"}}[name]
    kinds = [
        {str(v.aval.dtype) for v in equation.invars}
        for inner in every_jaxpr(jaxpr.jaxpr)
        for equation in inner.eqns
        if equation.primitive.name == "dot_general"
    ]
    of_few = [kind for kind in kinds if kind <= few]
    # Image layers, unimodal, multimodal with cross-attention, and two poolers: 6 + 6 + 10 + 2 x 4,
    # each forward and by both of its sides; and the layers' again where they are rematerialized.
    assert len(of_few) >= 3 * 30
    assert any(kind == {"float32"} for kind in kinds)  # patches, the vocabulary, attention


def every_jaxpr(jaxpr):
    yield jaxpr
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from every_jaxpr(inner)


@pytest.mark.slow
def test_a_mesh_trains_as_one_device_does():
    losses = {}
    for sizes in ((1, 1, 1), (2, 2, 2)):
        config = make_config(**{"train.quantization": "int8"})
        partitioner = partitioner_of(sizes, config)
        program = make_program(config, partitioner)
        state = program.factory.create(0)
        batch = partitioner.put_batch(make_batch())
        step = program.compile(state, batch)
        losses[sizes] = []
        for _ in range(3):
            state, metrics = step(state, batch)
            losses[sizes].append(float(metrics["loss"]))
        assert losses[sizes][-1] < losses[sizes][0]
    one, many = losses.values()
    # A sum in another order may round to the next of 255 steps, in each of two updates.
    np.testing.assert_allclose(many, one, rtol=3e-3)


def test_without_qwix_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    model = CoCa(model_config(make_config()))
    assert quantized(model, "") is model
    with pytest.raises(UserError, match=r'"coca_jax\[quantization\]"'):
        quantized(model, "int8")
