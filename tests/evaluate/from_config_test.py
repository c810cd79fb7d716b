"""Evaluations on real data by a real, untrained model."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from coca_jax.config import load_config, model_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.errors import UserError
from coca_jax.evaluate import from_config
from coca_jax.inference import LoadedModel
from coca_jax.models import CoCa, init_params
from coca_jax.parallel import Partitioner, make_mesh

PROBE = {
    "kind": "probe",
    "name": "shapes",
    "split": "test",
    "train_split": "train",
    "train_limit": 64,
    "limit": 32,
    "steps": 20,
}


@pytest.fixture(scope="module")
def config(prepared):
    config = load_config("configs/shapes.py:smoke")
    config.data.dir = prepared
    return config


@pytest.fixture(scope="module")
def handle(config):
    model = CoCa(model_config(config))
    params = nn.meta.unbox(jax.jit(lambda key: init_params(model, key))(jax.random.key(0)))
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    return LoadedModel(model, params, make_tokenizer("byte", ""), partitioner, 1, "these")


def test_features_are_kept_for_parameters_that_stay(config, handle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config.eval = {"probe": PROBE}
    metrics, artefacts = from_config.evaluate(handle, config)
    assert 0 < metrics["probe"]["count"] < 32 and 0 < metrics["probe"]["train_count"] < 64
    assert len(artefacts["probe"]["class_names"]) == 64
    kept = sorted(tmp_path.glob("coca_jax/features/*/tokens.npy"))
    assert len(kept) == 2
    changed = [path.stat().st_mtime_ns for path in kept]
    assert from_config.evaluate(handle, config)[0] == metrics
    assert [path.stat().st_mtime_ns for path in kept] == changed
    moving = handle.with_params(handle.params)
    assert from_config.evaluate(moving, config)[0] == metrics
    assert len(list(tmp_path.glob("coca_jax/features/*"))) == 2


def test_tokens_are_the_encoders(config, handle):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    tokens, image = handle.image_tokens(images), handle.config.image
    assert tokens.shape == (3, image.tokens, image.width) and tokens.dtype == np.float32
    np.testing.assert_allclose(handle.image_tokens(images[1:2])[0], tokens[1], atol=1e-5)


def test_the_data_to_learn_from_are_looked_for_before_anything_runs(config):
    config.eval = {"probe": PROBE | {"train_split": "trian"}}
    with pytest.raises(UserError, match=r"config\.eval\.probe: .*no split 'trian'"):
        from_config.check(config)
