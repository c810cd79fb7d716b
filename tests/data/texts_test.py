import math

import pytest

from coca_jax.data.texts import is_missing, to_captions, to_present_captions


@pytest.mark.parametrize("value", [None, math.nan, "", "  \n\u3000"])
def test_missing_captions_leave_their_places(value):
    assert is_missing(value)
    assert to_captions([value, "a", value]) == {"captions": ["", "a", ""]}
    found = to_present_captions([value, "a", value])
    assert found == {"captions": ["a"], "stored_captions": ["", "a", ""]}
    assert to_captions([value]) == {"captions": []}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "True is not text"),
        (0, "0 is not text"),
        (5.5, "5.5 is not text"),
        (b"x", "b'x' is not text"),
        ({"en": "x" * 99}, "{'en': 'xxxx"),
        (["a"], "['a'] is not text"),
        ("a\ud800b", "half of a surrogate pair"),
        ("a\0b", "NUL"),
        ("\u200b\ufeff\x01", "nothing to read"),
    ],
)
def test_what_is_no_text_is_named(value, reason):
    found = to_captions(["a", value, "b"])
    assert found["captions"] == ["a", "", "b"]
    assert reason in found["no_text"]
    assert len(found["no_text"]) < 80


@pytest.mark.parametrize("text", ["a\tb\n", "é", "猫", "🙂", "5", "nan", "a\u200db", "\x1b[1mx"])
def test_texts_of_any_kind_are_captions(text):
    assert not is_missing(text) and to_captions([text]) == {"captions": [text]}
