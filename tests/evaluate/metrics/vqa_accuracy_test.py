import pytest

from coca_jax.evaluate.metrics.vqa_accuracy import (
    answer_type,
    text_only_upper_bound,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("same", "expected"),
    # Of ten answers, `same` are the model's: with one of those left out there is one less.
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)],
)
def test_ten_peoples_answers_by_hand(same, expected):
    given = ["red"] * same + [f"other {i}" for i in range(10 - same)]
    assert vqa_accuracy("the red", given) == pytest.approx(expected)


def test_answers_that_all_agree_are_compared_as_they_are():
    assert vqa_accuracy("red", ["red"] * 10) == 1
    assert vqa_accuracy("the red", ["red"] * 10) == 0
    assert vqa_accuracy("red ", ["red"]) == 1
    assert vqa_accuracy("red", [" red\n"] * 10) == vqa_accuracy("red ", ["red"] * 10) == 1
    assert vqa_accuracy("Red", ["red "] * 10) == 0
    assert vqa_accuracy("red", ["red"] * 9 + ["red "]) == 1
    assert text_only_upper_bound([("what?", ["red "] * 10), ("what?", ["red"] * 10)]) == 1


def test_few_answers_are_compared_in_any_spelling():
    assert vqa_accuracy("two dogs", ["Two dogs."]) == 1
    assert vqa_accuracy("2", ["Two"]) == vqa_accuracy("2", ["Two", "two"]) == 1
    assert vqa_accuracy("three", ["Two"]) == 0
    assert vqa_accuracy("blue", ["red", "Blue!"]) == 1


def test_kinds_of_answers():
    assert answer_type(["yes"]) == answer_type(["No", "no", "2"]) == "yes_no"
    assert answer_type(["two"]) == answer_type(["12"]) == "number"
    assert answer_type(["red", "two", "red"]) == "other"
