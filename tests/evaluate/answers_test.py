import pytest

from coca_jax.evaluate.answers import accuracy, kind


@pytest.mark.parametrize(
    ("same", "expected"),
    # Of ten answers, so many are the model's: with one of those left out there is one less.
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)],
)
def test_ten_peoples_answers_by_hand(same, expected):
    given = ["red"] * same + [f"other {i}" for i in range(10 - same)]
    assert accuracy("the red", given) == pytest.approx(expected)


def test_answers_that_all_agree_are_compared_as_they_are():
    assert accuracy("red", ["red"] * 10) == 1
    assert accuracy("the red", ["red"] * 10) == 0
    assert accuracy("red ", ["red"]) == 1
    assert accuracy("blue", ["red", "Blue!"]) == 1


def test_kinds_of_answers():
    assert kind(["yes"]) == kind(["No", "no", "2"]) == "yes_no"
    assert kind(["two"]) == kind(["12"]) == "number"
    assert kind(["red", "two", "red"]) == "other"
