import pytest

from coca_jax.errors import UserError
from coca_jax.interop.names import leaves, match

NAMES = ["scale", "visual.proj", "visual.blocks.0.attn.weight", "text.blocks.0.attn.weight"]


def matched(names, expected=NAMES, folder=()):
    """The model's names by those in the file."""
    found = match([(*folder, name) for name in names], expected)
    return {place[-1]: name for name, place in found.places.items()}, found


WRAPPED = {
    "DDP": lambda name: f"module.{name}",
    "compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "both, the other way": lambda name: f"_orig_mod.module.module.{name}",
    "a trainer": lambda name: f"model.{name}",
    "a trainer of a compiled model": lambda name: f"model.coca._orig_mod.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        "blocks.0", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module"
    ),
    "one tower": lambda name: name.replace("visual.", "visual.module._orig_mod."),
    "within": lambda name: name.replace("attn.", "_fpw_module.attn._orig_mod."),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_words_of_wrappers_are_seen_through(wrap):
    names = {wrap(name): name for name in NAMES}
    found, result = matched(names)
    assert found == names and not result.surplus


def test_a_part_of_a_models_name_is_never_taken_away():
    expected = ["module.a", "a", "b.module.c", "_x.d"]
    for prefix in ("", "module.", "model.", "_orig_mod."):
        names = {f"{prefix}{name}": name for name in expected}
        assert matched(names, expected)[0] == names
    found, result = matched(["module.module.a", "module.a"], ["module.a", "module.b"])
    assert found == {"module.a": "module.a"} and len(result.surplus) == 1


def test_what_is_next_to_the_weights_is_surplus_and_what_is_elsewhere_is_not():
    inside = [("state_dict", f"model.{name}") for name in NAMES]
    extra = ("state_dict", "model.module.extra")
    places = [*inside, extra, ("state_dict", "loss.weight"), ("optimizer", "0", "exp_avg")]
    found = match(places, NAMES)
    assert found.surplus == [extra] and found.prefix == "state_dict.model"
    assert set(found.places.values()) == set(inside)


def test_names_that_are_split_over_dictionaries():
    places = [tuple(name.split(".", 1)) for name in NAMES]
    found = match([*places, ("optimizer", "exp_avg")], NAMES)
    assert found.places == dict(zip(NAMES, places, strict=True)) and not found.surplus


@pytest.mark.parametrize("lacking", [0, 1])
@pytest.mark.parametrize("other", ["optimizer", "state_dict_ema", "ema"])
def test_of_several_the_usual_place_is_taken(other, lacking):
    weights = [("state_dict", f"module.{name}") for name in NAMES[lacking:]]
    found = match([*((other, name) for name in NAMES), *weights], NAMES)
    assert list(found.places.values()) == weights


def test_no_guess_between_equals():
    both = [(prefix + name,) for prefix in ("student.", "teacher.") for name in NAMES]
    with pytest.raises(UserError, match="under 'student' and 'teacher'"):
        match(both, NAMES)
    with pytest.raises(UserError, match=r"scale is there 2 times: scale, module\.scale"):
        match([("scale",), ("module.scale",)], NAMES)


def test_nothing_matches():
    found = match([("a",), ("b", "c")], NAMES)
    assert not found.places and found.surplus == [("a",), ("b", "c")]


def test_leaves_of_a_tree_that_holds_itself():
    tree = {"a": [1, (2,)], 3: {}}
    tree["b"] = tree
    assert list(leaves(tree)) == [(("a", "0"), 1), (("a", "1", "0"), 2), (("3",), {})]
    deep = 7
    for _ in range(10_000):
        deep = [deep]
    assert [value for _, value in leaves(deep)] == [7]
