import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generate.tiny import (
    BOS,
    DECODING,
    EOS,
    LENGTH,
    make_model,
    make_pixels,
    plain,
)

from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.generate import Beams, Decoding, Greedy, Prompt, Sampling, generate
from coca_jax.generate.decoding import require_positive, require_whole
from coca_jax.models import init_params
from coca_jax.planning.collectives import first_group

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
COLLECTIVE = re.compile(r"= (\(?\S+) ((?:all|collective|reduce-s)[a-z-]+)\((.*)")


@pytest.fixture(scope="module")
def model_and_params():
    return make_model(vocab_size=64, length=8)


def beams_and_samples(model):
    """Searches and samples with every setting that takes an operation of its own."""
    decoding = dataclasses.replace(DECODING, length=8, repetition_penalty=1.2)

    def function(params, pixels, prompt, key):
        beams = generate(model, params, pixels, decoding, Beams(3, 2), prompt)
        sampling = Sampling(2, top_k=9, top_p=0.9)
        samples = generate(model, params, pixels, decoding, sampling, prompt, key)
        return beams, samples

    return function


def make_inputs(seed=0):
    ids = np.random.default_rng(seed).integers(3, 64, (8, 2), dtype=np.int32)
    ids[:, 0] = BOS
    prompt = Prompt(ids, (np.arange(8, dtype=np.int32) + seed) % 2 + 1)
    return make_pixels(8, seed), prompt, jax.random.key(5 + seed)


def on_mesh(model, params, pixels, prompt, key):
    """The texts generated on a mesh of all axes, and the compiled program as text."""
    partitioner = Partitioner(make_mesh(SIZES))
    with partitioner.context():
        boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        params = jax.device_put(params, partitioner.shardings(boxed))
        pixels, prompt = partitioner.put_batch((np.asarray(pixels), prompt))
        program = jax.jit(beams_and_samples(model))
        compiled = program.lower(params, pixels, prompt, key).compile()
        return compiled(params, pixels, prompt, key), compiled.as_text()


def crosses_data(attributes):
    """Whether a collective connects devices that differ in the mesh's first axis, `data`."""
    if pairs := re.search(r"source_target_pairs=\{\{([^=]*)\}\}", attributes):
        groups = [map(int, pair.split(",")) for pair in pairs[1].split("},{")]
    else:
        groups = [first_group(attributes) or range(8)]
    inner = SIZES["fsdp"] * SIZES["tensor"]
    return any(len({device // inner for device in group}) > 1 for group in groups)


def test_a_mesh_generates_the_same_texts(model_and_params):
    model, params = model_and_params
    program, outputs = jax.jit(beams_and_samples(model)), []
    for seed in range(3):  # one program serves all values
        outputs.append(program(params, *make_inputs(seed)))
    assert program._cache_size() == 1
    beams, samples = outputs[0]
    assert len(np.unique(beams.ids[:, 0, 2:], axis=0)) > 3 and len(np.unique(samples.ids)) > 8
    sharded, text = on_mesh(model, params, *make_inputs())
    for x, y in zip(jax.tree.leaves(outputs[0]), jax.tree.leaves(sharded), strict=True):
        if x.dtype == int:
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    # Each device searches for its own images: only "is all done?" and the shortest prompt are
    # asked of all.
    collectives = [match for match in COLLECTIVE.findall(text) if crosses_data(match[2])]
    assert collectives
    for shape, operation, _ in collectives:
        assert shape.count("[]") == 1 and operation == "all-reduce"


def test_the_loop_stops_when_all_texts_have_ended(model_and_params):
    model, params = model_and_params
    steps = []

    class Counting(Greedy):
        def choose(self, decoding, step, state):
            jax.debug.callback(lambda position: steps.append(int(position)), step.position)
            return super().choose(decoding, step, state)

    only_end = dataclasses.replace(DECODING, suppress=tuple({*range(64)} - {EOS}))
    caption = jax.jit(lambda p, x: generate(model, p, x, only_end, Counting()))
    texts = plain(caption(params, make_pixels(2)))
    jax.effects_barrier()
    assert texts == [[(BOS, EOS)]] * 2 and steps == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 1}, "length is 1; it must be a whole number, at least 2"),
        ({"min_length": LENGTH}, "min_length is 5; it must be from 0 to length - 1 = 4"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be positive"),
    ],
)
def test_values_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(DECODING, **changes)


@pytest.mark.parametrize("value", ["six", 2.5, None, True, [3], 0, -1])
def test_settings_that_are_no_whole_numbers(value):
    with pytest.raises(UserError, match=r"beams is .*; it must be a whole number, at least 1"):
        require_whole("beams", value, 1)
    require_whole("beams", np.int64(1), 1)


@pytest.mark.parametrize("value", ["hot", None, 1j, 0, -1.0, float("nan"), float("inf")])
def test_settings_that_are_not_positive(value):
    with pytest.raises(UserError, match=r"temperature is .*; it must be positive and finite"):
        require_positive("temperature", value)
    require_positive("temperature", np.float32(0.1))


def test_lengths_that_do_not_fit(model_and_params):
    model, params = model_and_params
    with pytest.raises(UserError, match="length is 9; it must be at most the model's, 8"):
        generate(model, params, make_pixels(2), Decoding(BOS, EOS, 2, 9), Greedy())
    prompt = Prompt(jnp.full((2, 5), BOS))
    with pytest.raises(UserError, match="prompt's length is 5; it must be less than length = 5"):
        generate(model, params, make_pixels(2), DECODING, Greedy(), prompt)
