"""The evaluations of a run, apart from the run."""

import gc
import types
import weakref
from unittest import mock

import jax
import jax.numpy as jnp

from coca_jax.config import default_config
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.models import PRESETS, make_model
from coca_jax.train import evaluation


def test_merged_parameters_are_freed_after_each_evaluation(monkeypatch):
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    program = types.SimpleNamespace(
        model=make_model(PRESETS["tiny"]),
        partitioner=Partitioner(mesh),
        merged=lambda frozen, params: {"kernel": frozen + params},
    )
    config = default_config()
    experiment = types.SimpleNamespace(program=program, tokenizer=None, config=config)
    state = types.SimpleNamespace(frozen=jnp.ones(3), params=jnp.ones(3), ema=None)
    seen = []

    def evaluate(model, *rest):
        assert model.params["kernel"].tolist() == [2, 2, 2]
        seen.append(weakref.ref(model.params["kernel"]))
        return mock.Mock(metrics={})

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    evaluator = evaluation.Evaluator(experiment)
    for step in (1, 2):
        evaluator.run(step, state, mock.Mock())
        gc.collect()
        assert seen[-1]() is None
    assert len(seen) == 2
