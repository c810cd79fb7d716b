"""Words as Stanford's tokenizer, which needs Java, was recorded to find them."""

import json
import pathlib

import pytest

from coca_jax.evaluate.metrics.ptb import tokenize

ROWS = json.loads(
    (pathlib.Path(__file__).parents[2] / "fixtures/coco/words.json").read_text(encoding="utf-8")
)
# Smileys become brackets here.
DIFFERENT = {
    "smiley :) <3": "smiley -rrb- < 3",
}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_words_are_the_servers(row):
    found = tokenize(row["text"])
    if row["text"] in DIFFERENT:
        assert found != row["words"] and " ".join(found) == DIFFERENT[row["text"]]
    else:
        assert found == row["words"]


def test_other_scripts_keep_their_words():
    assert tokenize("लाल वृत्त।") == ["लाल", "वृत्त"]  # vowel signs are part of words
    assert tokenize("красный «круг»") == ["красный", "круг"]
    assert tokenize(" . ") == tokenize("") == []
