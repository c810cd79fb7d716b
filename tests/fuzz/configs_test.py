import copy
import json

import pytest
from fuzz.drawing import CHANGE, TEXT, VALUE, put
from fuzz.running import fuzz
from hypothesis import strategies as st
from ml_collections import ConfigDict

from coca_jax.config import (
    build,
    default_config,
    differences,
    load_config,
    model_config,
    to_json,
)
from coca_jax.config.record import parse_record
from coca_jax.config.tree import keys
from coca_jax.data.options import MixtureConfig
from coca_jax.errors import UserError
from coca_jax.evaluate.registry import evaluations
from coca_jax.fields import fields_of
from coca_jax.io.stored import Damaged
from coca_jax.trees import flatten
from coca_jax.validation import validate

pytestmark = pytest.mark.slow

FILE = """
from coca_jax.config import default_config

def get_config(argument=None):
    config = default_config()
    config.data.sources = {"a": {"weight": 1.0}, "b": {"weight": 2.0}}
    config.eval = {"e": {"kind": argument or "retrieval", "name": "n", "split": "test"}}
    return config
"""
DEFAULTS = flatten(to_json(default_config()))
KEY = st.one_of(
    st.sampled_from(list(keys())),
    st.sampled_from(
        [f"eval.e.{name}" for kind in evaluations for name in fields_of(evaluations[kind])]
    ),
    st.sampled_from([f"data.sources.a.{name}" for name in fields_of(MixtureConfig)]),
    st.sampled_from(["model", "eval", "eval.e", "data.sources", "eval.f.kind", "seed.a", "", "."]),
    TEXT,
)
WORDS = st.one_of(
    st.sampled_from(["1", "8", "16", "0", "-1", "0.5", "1e-3", "1e400", "nan", "9" * 5000]),
    st.sampled_from(["True", "none", "None", "()", "(1, 2)", "(('.*', 0.5),)", "(" * 500]),
    st.sampled_from(["image", "text", "byte", "webdataset", "all", "auto", "adamw", "full", ".*"]),
    VALUE.map(repr),
    TEXT,
)
OVERRIDE = st.tuples(st.sampled_from(["--config.", "--config.", "--config.", "", "--"]), KEY, WORDS)


def check(config):
    """That an accepted configuration survives being written, and describes a model."""
    record = json.loads(json.dumps({"config": to_json(config)}, allow_nan=False))
    assert not differences(record["config"], to_json(parse_record(record)), ())
    model_config(config)
    assert build(config).data.data_sets()


@fuzz(100, overrides=st.lists(OVERRIDE, max_size=3), kind=st.sampled_from([*evaluations, "none"]))
def test_overrides_are_taken_or_refused(folder, overrides, kind):
    (folder / "c.py").write_text(FILE)
    words = [f"{start}{key}={value}" for start, key, value in overrides]
    try:
        config = load_config(f"{folder}/c.py:{kind}", words)
        validate(config, 8)
    except UserError as error:
        assert str(error).strip()
        return
    check(config)


@fuzz(30, changes=st.lists(CHANGE, max_size=3))
def test_trees_are_taken_or_refused(folder, changes):
    tree = copy.deepcopy(to_json(default_config()))
    tree["data"]["sources"] = {"a": {"weight": 1.0}}
    tree["eval"] = {"e": {"kind": "retrieval", "name": "n", "split": "test"}}
    for path, value in changes:
        put(tree, path, value)
    try:
        config = parse_record({"config": tree})
    except Damaged as error:
        assert str(error).strip()
    else:
        try:
            validate(config, 8)
        except UserError:
            return
        check(config)
    try:
        validate(ConfigDict(tree), 8)
    except (UserError, AttributeError, ValueError):  # the latter two: ConfigDict's own
        return


PROGRAMS = [b"", b"\0", b"\xff", b"get_config = 5", b"(" * 500, b"raise SystemExit", b"\t a\n b"]


@fuzz(60, spec=TEXT, names=st.lists(TEXT, max_size=2), program=st.sampled_from(PROGRAMS))
def test_whatever_is_given_as_a_file_is_used_or_refused(folder, spec, names, program):
    (folder / "c.py").write_bytes(program)
    for name in (spec, f"{folder}/{spec}", f"{folder}/c.py", f"{folder}/c.py:{spec}"):
        with pytest.raises(UserError):
            load_config(name, names)
