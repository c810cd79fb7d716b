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
    program,
    run,
    uneven_prompts,
)

from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.generate import Beams, Decoding, Greedy, Prompt, Sampling, generate
from coca_jax.generate.decoding import require_positive, require_whole
from coca_jax.models import init_params

MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "all": (2, 2, 2)}


def everything(model):
    """Searches and samples with every setting that takes an operation of its own."""
    decoding = dataclasses.replace(DECODING, length=8, repetition_penalty=1.2)

    def function(params, pixels, prompt, key):
        beams = generate(model, params, pixels, decoding, Beams(3, 2), prompt)
        sampling = Sampling(2, top_k=9, top_p=0.9)
        samples = generate(model, params, pixels, decoding, sampling, prompt, key)
        return beams, samples

    return function


def on_mesh(sizes, model, params, pixels, prompt):
    partitioner = Partitioner(make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    with partitioner.context():
        boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        params = jax.device_put(params, partitioner.shardings(boxed))
        pixels, prompt = partitioner.put_batch((np.asarray(pixels), prompt))
        program = jax.jit(everything(model))
        compiled = program.lower(params, pixels, prompt, jax.random.key(5)).compile()
        made = jax.tree.map(np.asarray, compiled(params, pixels, prompt, jax.random.key(5)))
    return made, compiled.as_text()


def test_meshes_generate_the_same_texts():
    model, params = make_model(vocab_size=64, length=8)
    ids = np.random.default_rng(0).integers(3, 64, (8, 2), dtype=np.int32)
    ids[:, 0] = BOS
    prompt = Prompt(ids, np.arange(8, dtype=np.int32) % 2 + 1)
    made, programs = {}, {}
    for name, sizes in MESHES.items():
        made[name], programs[name] = on_mesh(sizes, model, params, make_pixels(8), prompt)
    beams, samples = made["one"]
    assert len(np.unique(beams.ids[:, 0, 2:], axis=0)) > 3 and len(np.unique(samples.ids)) > 8
    for other in ("data", "all"):
        for x, y in zip(jax.tree.leaves(made["one"]), jax.tree.leaves(made[other]), strict=True):
            compare = (
                np.testing.assert_array_equal if x.dtype == int else np.testing.assert_allclose
            )
            compare(x, y, **({} if x.dtype == int else {"rtol": 1e-3, "atol": 1e-4}))
    # Each device searches for its own images: only "is all done?" and the shortest prompt are
    # asked of all.
    moved = re.findall(r"= (\S+) ((?:all|collective|reduce-s)[a-z-]+)\(", programs["data"])
    assert moved and all(shape.count("[]") == 1 and op == "all-reduce" for shape, op in moved)


def test_one_program_serves_all_values():
    beams = Beams(3, n_best=3)  # as in beams_test.py
    for seed in range(3):
        prompt = uneven_prompts()
        prompt = prompt.replace(lengths=np.maximum(prompt.lengths - seed, 1))
        run(beams, DECODING, prompt, pixels=make_pixels(seed=seed))
    assert program(beams, DECODING)._cache_size() == 1


def test_the_loop_stops_when_all_texts_have_ended():
    steps = []

    class Counting(Greedy):
        def choose(self, decoding, step, state):
            jax.debug.callback(lambda position: steps.append(int(position)), step.position)
            return super().choose(decoding, step, state)

    short = run(Counting(), dataclasses.replace(DECODING, suppress=(0, 2, 3, 4, 5, 6)))
    jax.effects_barrier()
    assert plain(short) == [[(BOS, EOS)]] * 6 and steps == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 1}, "length is 1; it must be a whole number, at least 2"),
        ({"min_length": LENGTH}, "min_length is 5; it must be from 0 to length - 1 = 4"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be positive"),
    ],
)
def test_mistakes(changes, message):
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


def test_mistakes_of_length():
    with pytest.raises(UserError, match="length is 6; it must be at most the model's, 5"):
        run(Greedy(), Decoding(BOS, EOS, 2, 6))
    with pytest.raises(UserError, match="prompt's length is 5; it must be less than length = 5"):
        run(Greedy(), prompt=Prompt(jnp.full((6, 5), BOS)))
