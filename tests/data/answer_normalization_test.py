import pytest

from coca_jax.data.answer_normalization import normalized


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red Ball.", "red ball"),
        ("two", "2"),
        ("None", "0"),
        ("1,000", "1000"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("black-and-white", "black and white"),
        ("yes, it is", "yes it is"),
        ("3.5", "3.5"),
        (" a\tcat\n", "cat"),
        ("", ""),
    ],
)
def test_answers_are_spelled_alike(answer, expected):
    assert normalized(answer) == expected
