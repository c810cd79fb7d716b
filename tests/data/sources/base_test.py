"""Labels of every kind that sources have stored."""

import math

import pytest

from coca_jax.data.errors import BadExample
from coca_jax.data.sources.base import to_labels

YEARS = ["1990", "1991", "nan"]  # names of the classes 0, 1 and 2


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        ([1], YEARS, (1, ["1991"])),
        ([1.0], YEARS, (1, ["1991"])),
        ([True], YEARS, (1, ["1991"])),
        (["1"], YEARS, (1, ["1991"])),
        (["1991"], YEARS, (1, ["1991"])),
        (["nan"], YEARS, (2, ["nan"])),
        (["zebra"], YEARS, (-1, ["zebra"])),
        (["3"], [], (-1, ["3"])),
        ([7], [], (7, [])),
        ([0, 2], YEARS, (-1, ["1990", "nan"])),
        ([0, None], YEARS, (-1, ["1990"])),
        ([None], YEARS, (-1, [])),
        ([-1], YEARS, (-1, [])),
        ([""], YEARS, (-1, [])),
        ([], YEARS, (-1, [])),
    ],
)
def test_labels_are_numbers_or_names(labels, class_names, expected):
    assert to_labels(labels, class_names) == expected


@pytest.mark.parametrize("class_names", [[], ["cat", "dog"]])
@pytest.mark.parametrize(
    "label", [-2, 10**30, 2**31, -(10**400), 0.5, math.nan, math.inf, "NaN", {"a": 1}, [1]]
)
def test_labels_that_are_neither(label, class_names):
    for labels in ([label], [0, label]):
        with pytest.raises(BadExample, match="the label is") as caught:
            to_labels(labels, class_names)
        assert caught.value.kind == "bad_record"


@pytest.mark.parametrize("label", [2, "2", "9" * 30, "1e400", "-5", "0.5", "inf"])
def test_numbers_that_no_class_has(label):
    with pytest.raises(BadExample, match=r"should be a number from 0 to 1 or the name of a class"):
        to_labels([label], ["cat", "dog"])


def test_half_of_a_character_is_no_label():
    with pytest.raises(BadExample) as caught:
        to_labels(["\ud800"], [])
    assert caught.value.kind == "bad_text"
