import collections

import pytest

from coca_jax.errors import UserError
from coca_jax.registry import Registry


@pytest.fixture
def registry():
    return Registry("table", {"ordered": "collections:OrderedDict", "broken": "no_such_module:x"})


def test_built_in_things_are_imported_when_asked_for(registry):
    assert "broken" in registry and "other" not in registry and [] not in registry
    assert registry["ordered"] is collections.OrderedDict
    with pytest.raises(ModuleNotFoundError):
        registry["broken"]


def test_a_users_thing_is_added_and_replaced(registry):
    for kind in (dict, list):
        assert registry.register("mine")(kind) is kind
        assert registry["mine"] is kind
    assert list(registry) == ["ordered", "broken", "mine"]


def test_names_that_are_taken_or_unknown(registry):
    with pytest.raises(UserError, match="table 'ordered' is coca_jax's own"):
        registry.register("ordered")
    with pytest.raises(UserError, match="table 'other' does not exist; there are ordered, broken;"):
        registry["other"]
