import dataclasses
import json
import sys

import pytest

from coca_jax.config import default_config, to_json
from coca_jax.config.checks import errors
from coca_jax.config.record import parse_record
from coca_jax.errors import UserError
from coca_jax.fields import field, integer
from coca_jax.observe.writers import MetricWriter, writers
from coca_jax.validation import validate


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(writers, "_added", {})


def test_a_writer_of_your_own_is_on_and_has_its_options(tmp_path):
    made = []

    @dataclasses.dataclass(frozen=True)
    class Options:
        port: int = field(80, "Port of the server.", integer(1, 9999))

    @writers.register("mine")
    class Mine:
        options = Options

        def __init__(self, workdir, resume_step, options):
            made.append(options)

        def write(self, step, values): ...

        def close(self): ...

    config = default_config()
    assert config.metrics.writers == ("jsonl", "tensorboard", "mine")
    config.metrics.options.mine.port = 8080
    assert errors(config) == []
    config.metrics.writers = ("mine",)
    MetricWriter(tmp_path, None, config.metrics).close()
    assert made == [Options(8080)]
    config.metrics.options.mine.port = 0
    [line] = errors(config)
    assert line.startswith("config.metrics.options.mine.port=0 should be a whole number from 1")
    # Another process, where it is not registered, can read the run's configuration.
    config.metrics.options.mine.port = 8080
    stored = json.loads(json.dumps(to_json(config)))
    writers._added.clear()
    assert parse_record({"config": stored}).metrics.writers == ["mine"]
    assert any("config.metrics.writers=" in line for line in errors(config))


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000", "postgresql://me:secret@host/db"])
def test_no_password_is_stored(uri):
    config = default_config()
    config.metrics.options.mlflow.tracking_uri = uri
    [line] = errors(config)
    assert (
        "should be a URI without user and password" in line and "MLFLOW_TRACKING_PASSWORD" in line
    )


def test_a_missing_package_is_an_error_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = default_config()
    config.metrics.writers = ("jsonl", "wandb")
    validate(config)  # to evaluate, it is not needed
    with pytest.raises(UserError, match=r'wandb needs .* pip install "coca_jax\[wandb\]"'):
        validate(config, reads=("train",))
