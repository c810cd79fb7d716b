import base64

import cv2
import jax
import numpy as np
import pytest
from models.random_params import random_params
from starlette.testclient import TestClient

from coca_jax import models
from coca_jax.config import load_config, model_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.tokenizers.sentence_piece import train_sentencepiece
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.inference import LoadedModel
from coca_jax.serve.app import make_app
from coca_jax.serve.limits import Limits
from coca_jax.serve.service import Served, Service

TEXTS = ["a red circle", "a blue star at the top left", "two green rings on a black square"]
LIMITS = Limits(max_batch=4, max_bytes=200_000, max_pixels=10_000)


def png(seed=0, height=32, width=32):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def encoded(data):
    return base64.b64encode(data).decode()


def make_model(folder, path="configs/shapes.py:smoke"):
    """A model with random parameters and a tokenizer of TEXTS."""
    config = load_config(path)
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(TEXTS * 20, 400))
    model = models.make_model(model_config(config))
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    params = jax.device_put(random_params(model, 0), partitioner.replicated)
    tokenizer = make_tokenizer("sentencepiece", folder / "tokenizer.model")
    classes = config.head.classes if model.config.head else ()
    return LoadedModel(model, params, tokenizer, partitioner, 3, "tiny", classes)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def service(model):
    return Service(Served(model, "tiny"), LIMITS)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service)) as client:
        yield client
