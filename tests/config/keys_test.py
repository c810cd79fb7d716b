"""Nonsense of every type, for every key there is."""

import contextlib
import math

import numpy as np
import pytest
from ml_collections import ConfigDict, config_dict

from coca_jax.config import default_config, load_config
from coca_jax.config.checks import key_errors
from coca_jax.config.tree import keys
from coca_jax.data.options import MixtureConfig
from coca_jax.errors import UserError
from coca_jax.evaluate.parsing import eval_errors
from coca_jax.evaluate.registry import evaluations
from coca_jax.fields import fields_of, read, shown
from coca_jax.trees import flatten
from coca_jax.validation import validate

KEYS = {key: field.kind for key, field in keys().items()}
SOURCE_KEYS = {key: field.kind for key, field in fields_of(MixtureConfig).items()}

NAN, INF = math.nan, math.inf
NOWHERE = [  # what no key may be
    *(NAN, INF, -INF, (NAN, NAN, NAN), ((".*", NAN),), (("batch", NAN),)),
    *(10**40, 10**400, 10**5000, -(10**400), -7, 1e39, -1e39, 2 + 1j),
    *("a\0b", "\ud800", "a" * 10**5, ("",), ("a\0b",), (" ",)),
    *(b"x", {1, 2}, {"a": 1}, range(3), object(), len, np.float32(1), np.int64(3)),
    *(np.zeros(3), np.array(["a", "b"]), ((((),),),), (None,), (None, None, None), (5.5,)),
    *((1, 2, 3, 4, 5.5), ((1, 2, 3),), ((".*",),), (("batch", ("data", "data")),)),
    *((("nothing", None),), ((5, "data"),), ((".*", 1.0, 2.0),)),
]
SOMEWHERE = [  # what a few may be
    *(True, False, 0, 1, -1, 2**31, 0.5, 1.5, 1e-50, "", " ", "x", "(", "{", "a{99999999999}", ()),
    *((0.5, 0.5, 0.5), None, {}, (("(", 1.0),), ((".*", -1.0),), (("batch", "nowhere"),)),
    *([], [[".*", 1]], [["batch", ["data"]]]),
]
WORDS = [
    *("", "nan", "inf", "-inf", "1e400", "-1", "1e3", "1_000", "True", "yes", "None", "()", "[]"),
    *("(1,2,3)", "((((", "(" * 1000, "('a')", "'a'", "\u22125", "a\nb", "a\0b", "9" * 5000),
    *("{}", "(1e999,)", "{1: 2}", "lambda: 1", "\ud800", "0x10", "[[1], [2]]"),
]


def all_set_to(value):
    """The tree of the defaults, in which every key has this value."""
    tree = default_config().to_dict()
    for key in KEYS:
        *parents, leaf = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    return tree


def refusals(call, *arguments):
    """The lines of the UserError that a call ends in; none if it ends well."""
    try:
        call(*arguments)
    except UserError as error:
        return str(error).splitlines()
    return []


def test_every_key_has_a_kind_that_its_default_is_of():
    defaults = flatten(default_config())
    assert set(KEYS) == set(defaults) - {"eval", "data.sources"}
    assert key_errors(default_config()) == {}
    assert key_errors(default_config().to_dict()) == {}


def test_what_no_key_may_be_is_refused_by_each_kind():
    for value in NOWHERE:
        for key, kind in (KEYS | SOURCE_KEYS).items():
            assert not kind.holds(value), f"{key}={shown(value)}"
        for name in evaluations:
            kinds = [field.kind for field in fields_of(evaluations[name]).values()]
            assert sum(not kind.holds(value) for kind in kinds) >= 8


LONG = [math.nan, 10**5000, "a" * 10**5, object(), np.zeros(3), {1: 2}]


@pytest.mark.parametrize("value", LONG, ids=lambda value: shown(value)[:20])
def test_every_value_that_is_refused_has_a_short_line(value):
    lines = refusals(validate, ConfigDict(all_set_to(value)), 8)
    for key in KEYS:
        assert any(line.startswith(f"config.{key}") for line in lines), key
    assert max(map(len, lines)) < 600
    for kind in evaluations:
        options = fields_of(evaluations[kind])
        lines = eval_errors(ConfigDict({"a": dict.fromkeys(options, value) | {"kind": kind}}))
        for name in (name for name, field in options.items() if not field.kind.holds(value)):
            assert any(line.startswith(f"config.eval.a.{name}=") for line in lines), name
    sources = {"a": dict.fromkeys(SOURCE_KEYS, value)}
    errors = key_errors({"data": {"sources": sources}})
    assert set(SOURCE_KEYS) <= {key.removeprefix("data.sources.a.") for key in errors}


@pytest.mark.parametrize("value", SOMEWHERE, ids=lambda value: shown(value)[:20])
def test_what_some_keys_may_be_ends_in_a_user_error_or_well(value):
    lines = refusals(validate, ConfigDict(all_set_to(value)), 8)
    for key, kind in KEYS.items():
        refused = any(line.startswith(f"config.{key}={shown(value)} should be") for line in lines)
        assert refused or kind.holds(value), key
    for kind in evaluations:
        options = dict.fromkeys(fields_of(evaluations[kind]), value) | {"kind": kind}
        assert all(isinstance(line, str) for line in eval_errors(ConfigDict({"a": options})))


@pytest.mark.parametrize("value", [None, 5, {}, "x", ()])
def test_what_is_no_section_is_refused(value):
    for section in ("model", "data", "eval", "optimizer"):
        assert refusals(validate, ConfigDict({section: value}), 8)
        assert refusals(validate, ConfigDict(all_set_to(0.5) | {section: value}), 8)
    assert refusals(validate, ConfigDict({"data": {"sources": {"a": value}}}))


def test_names_and_placeholders():
    config = default_config()
    config.eval = {5: {"kind": "retrieval", "name": "shapes", "split": "test"}}
    config.data.sources = {"": {"weight": 1.0}}
    config.data.dir = config_dict.required_placeholder(str)
    lines = refusals(validate, config)
    assert [line.partition("should")[0] for line in lines] == [
        "config.data.dir is missing; its default is ''",
        "config.data.sources: '' ",
        "config.eval: 5 ",
    ]


def test_words_are_of_the_kind_that_they_are_read_as():
    for words in WORDS:
        for kind in KEYS.values():
            with contextlib.suppress(ValueError):
                assert kind.holds(read(words, kind))


@pytest.mark.parametrize("words", ["nan", "9" * 5000, "(" * 1000], ids=["nan", "long", "deep"])
def test_overrides_are_refused_by_each_key_or_are_of_its_kind(words):
    lines = refusals(load_config, "configs/shapes.py", [f"--config.{k}={words}" for k in KEYS])
    for key, kind in KEYS.items():
        try:
            read(words, kind)
        except ValueError:
            assert any(line.startswith(f"config.{key}=") for line in lines), key
    assert max(map(len, lines)) < 600


def test_words_are_read_as_what_the_key_is_of():
    for key, words, value in (
        ("train.steps", "1_000", 1000),
        ("optimizer.learning_rate", "1", 1.0),
        ("data.train.flip", "TRUE", True),
        ("data.train.prompts", "['a {}']", ("a {}",)),
        ("optimizer.learning_rates", "[['a', 0], ['.*', 1]]", (("a", 0), (".*", 1))),
        ("model.dtype", "float32", "float32"),
    ):
        assert read(words, KEYS[key]) == value and type(read(words, KEYS[key])) is type(value)
    options = {name: field.kind for name, field in fields_of(evaluations["probe"]).items()}
    assert read("None", options["limit"]) is None and read("5", options["limit"]) == 5
    assert read("[1]/a.tar", options["path"]) == "[1]/a.tar"
    assert read("('a', 'b')", options["path"]) == ("a", "b")
    assert read("(1e-4, 1)", options["l2"]) == (1e-4, 1) and read("1e-4", options["l2"]) == 1e-4
