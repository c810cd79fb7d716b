import dataclasses

import pytest

from coca_jax.config import build, default_config, load_config
from coca_jax.config.schema import Config
from coca_jax.evaluate.captioning import Captioning
from coca_jax.evaluate.parsing import parse_evals
from coca_jax.losses.registry import losses


def test_the_defaults_are_those_of_the_schema():
    typed = build(default_config())
    assert typed == Config() and hash(typed) == hash(Config())
    assert typed.loss.contrastive == losses["contrastive"]()


def test_values_have_the_types_of_their_fields():
    config = default_config()
    config.update_from_flattened_dict({"optimizer.b1": 0, "data.train.color_jitter": [0, 1, 0, 0]})
    with config.ignore_type():
        config.optimizer.learning_rates = [["a.*", 0], [".*", 1]]
        config.sharding.rules = [["batch", ["data"]], ["embed", None]]
    typed = build(config)
    assert isinstance(typed.optimizer.b1, float)
    assert str(typed.data.train.color_jitter) == "(0.0, 1.0, 0.0, 0.0)"
    assert str(typed.optimizer.learning_rates) == "(('a.*', 0.0), ('.*', 1.0))"
    assert typed.sharding.rules == (("batch", ("data",)), ("embed", None))
    with pytest.raises(dataclasses.FrozenInstanceError):
        typed.optimizer.b1 = 0.5
    with pytest.raises(AttributeError, match="immutable"):
        typed.loss.captioning = None


def test_data_sets_of_a_mixture_have_the_keys_of_data_train():
    config = default_config()
    config.data.train.flip = True
    config.data.sources = {"a": {"weight": 2, "name": "emoji"}, "b": {}}
    sources = build(config).data.sources
    assert sources.a.weight == 2.0 and sources.a.name == "emoji" and sources.a.flip
    assert sources.b.weight == 0.0 and sources["b"].name == "shapes"


def test_evaluations_are_objects_or_plain_where_they_are_not_known():
    config = load_config("configs/shapes.py")
    typed = build(config)
    assert typed.eval.captioning == Captioning(name="shapes", split="test", limit=500)
    assert parse_evals(typed.eval) == parse_evals(config.eval)
    config.eval.captioning.kind = "mine"
    config.eval.retrieval.of_before = 3
    config.eval.zero_shot.limit = -1
    typed = build(config)
    assert typed.eval.captioning.kind == "mine" and typed.eval.retrieval.of_before == 3
    assert typed.eval.zero_shot.limit == -1
