import jax
import numpy as np
import pytest
from models.random_params import random_params

from coca_jax.config import load_config, model_config
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.distributed.sharding import RULES
from coca_jax.errors import UserError
from coca_jax.inference import compiled
from coca_jax.models import make_model

TEXTS = np.arange(1, 29, dtype=np.int32)[None]


@pytest.fixture
def compilations():
    """Names of the functions that are compiled from here on, none of which was before."""
    seen = []
    compiled._jitted.cache_clear()

    def note(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            seen.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def params():
    return random_params(make_model(model_config(load_config("configs/shapes.py:smoke"))))


def run(name, params, batch, rules=RULES, **changes):
    """Runs a function of a model as another `load` would make it."""
    config = load_config("configs/shapes.py:smoke")
    config.model.update(changes)
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}), rules)
    functions = compiled.Compiled(make_model(model_config(config)), partitioner)
    return functions.run(name, jax.device_put(params, partitioner.replicated), batch)


def encode(params, **changes):
    return run("encode_text", params, [TEXTS], **changes)


def test_models_of_one_configuration_compile_once(params, compilations):
    first = encode(params)
    compilations.clear()
    np.testing.assert_array_equal(encode(params), first)
    other = encode(jax.tree.map(lambda x: -np.asarray(x), params))
    assert not compilations
    assert np.abs(other - first).max() > 0.01


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"rules": (("batch", "data"),)}])
def test_what_is_computed_or_laid_out_otherwise_compiles_anew(params, compilations, changes):
    encode(params)
    compilations.clear()
    encode(params, **changes)
    assert len(compilations) == 1


def test_batches_of_two_sizes(params):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match=r"are \[2, 1\]"):
        run("caption_logits", params, [pixels, TEXTS])
