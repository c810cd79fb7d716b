import dataclasses

from coca_jax.fields import choice, field, fields_of, integer, registered, value_errors
from coca_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = field(3, "Pixels.", integer(1, 8))
    mode: str = field("fast", "How.", choice("fast", "exact"), resumable=True)
    derived: int = 0


def test_a_field_is_what_it_was_made_with():
    fields = fields_of(Options)
    assert list(fields) == ["size", "mode"] and Options() == Options(3, "fast", 0)
    assert fields["size"].doc == "Pixels." and not fields["size"].resumable
    assert fields["mode"].default == "fast" and fields["mode"].resumable


def test_every_wrong_value_has_a_message():
    values = {"size": 9, "mode": "exact", "sizes": 1, "derived": 2}
    assert value_errors(values, fields_of(Options), "config.a.") == {
        "size": "config.a.size=9 should be a whole number from 1 to 8",
        "sizes": "config.a.sizes=1 is unknown; there are size, mode; did you mean config.a.size?",
        "derived": "config.a.derived=2 is unknown; there are size, mode",
    }


def test_a_registered_name_is_allowed_once_it_is_registered():
    registry = Registry("loss", {"plain": "builtins:dict"})
    kind = registered(registry)
    assert kind.holds("plain") and not kind.holds("mine") and not kind.holds(3)
    registry.register("mine")(list)
    assert kind.holds("mine") and kind.wanted == "one of plain, mine"
