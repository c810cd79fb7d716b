import types

import numpy as np

from coca_jax.inference import Caption, LoadedModel
from coca_jax.serve import operations
from coca_jax.serve.operations import Key, Operations, rank, softmax


class Model(LoadedModel):
    """Notes the calls of captioning."""

    tokenizer = types.SimpleNamespace(pad_id=0)

    def __init__(self):
        self.calls, self.forgotten = [], 0

    def tokenize(self, texts):
        return np.array([[1] * len(text.split()) + [0] * (9 - len(text.split())) for text in texts])

    def caption(self, pixels, method, **options):
        self.calls.append((len(pixels), method, options))
        return [Caption("a ring", -1.0)] * len(pixels)

    def forget_programs(self):
        self.forgotten += 1


IMAGE = np.zeros((2, 2, 3), np.uint8)


def caption(run, rows=1, prompt="", **options):
    return run(Key("caption", tuple(options.items())), [(IMAGE, prompt)] * rows)


def test_samples_have_the_given_seed_or_a_new_one_each_time():
    model = Model()
    run = Operations(model)
    for options in ({"seed": 7}, {}, {}):
        caption(run, method="sample", **options)
    seeds = [options["seed"] for _, _, options in model.calls]
    assert seeds[0] == 7 and len(set(seeds)) == 3


def test_programs_of_many_options_are_dropped(monkeypatch):
    monkeypatch.setattr(operations, "MAX_PROGRAMS", 4)
    model = Model()
    run = Operations(model)
    for rows in (1, 2, 3, 4):  # 3 rows run as 4
        caption(run, rows)
    caption(run, 1, "a red")
    caption(run, 1, "a blue")  # as many tokens
    assert model.forgotten == 0
    caption(run, 1, repetition_penalty=1.5)
    assert model.forgotten == 1
    caption(run, 1)
    assert model.forgotten == 1


def test_seeds_compile_no_programs(monkeypatch):
    monkeypatch.setattr(operations, "MAX_PROGRAMS", 4)
    model = Model()
    run = Operations(model)
    for seed in range(6):
        caption(run, method="sample")
        caption(run, method="sample", seed=seed)
    assert len(model.calls) == 12 and model.forgotten == 0


def test_rank_and_softmax():
    assert rank(np.array([0.1, 0.7, 0.2, 0.7]), 3) == [1, 3, 2]
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0]]) + 1000), [[0.25, 0.75]])
