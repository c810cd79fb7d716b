import pytest

from coca_jax.io.visible import visible


@pytest.mark.parametrize("text", ["a\tb\nc", "é 猫 🐈‍⬛ \u2028", ""])
def test_texts_of_people_stay(text):
    assert visible(text) == text


def test_each_character_that_would_not_be_shown_is_replaced():
    assert visible("\0a\x1b[31m\r\x7f\x9b\u202e\u2066\ud800\udcff\uffff") == "�a�[31m" + "�" * 8
