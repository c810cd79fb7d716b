from itertools import pairwise

import numpy as np
import pytest

from coca_jax.data.tokenizers import clip_bpe


def merged_by_passes(ids, merges):
    """As CLIP does it: in each pass all places of the pair that was learned first."""
    while known := [merges[pair] for pair in pairwise(ids) if pair in merges]:
        first, passed = min(known), []
        for i in ids:
            if passed and merges.get((passed[-1], i)) == first:
                passed[-1] = first
            else:
                passed.append(i)
        ids = passed
    return ids


@pytest.mark.parametrize("letters", ["a", "ab", "aehnrst", "abcdefghijklmnopqrstuvwxyz"])
def test_merges_are_made_in_the_order_in_which_they_were_learned(letters):
    merges, rng = clip_bpe.table().merges, np.random.default_rng(0)
    for length in (1, 2, 3, 5, 8, 13, 100):
        ids = [clip_bpe.ID_OF_BYTE[ord(letter)] for letter in rng.choice(list(letters), length)]
        ids[-1] += 256
        assert clip_bpe.merge(ids, merges) == merged_by_passes(ids, merges)


def test_overlapping_pairs_merge_from_the_left():
    assert clip_bpe.merge([7, 7, 7, 7, 7], {(7, 7): 9}) == [9, 9, 7]
    assert clip_bpe.merge([1, 2, 3], {(2, 3): 10, (1, 2): 11, (1, 10): 12}) == [12]
    assert clip_bpe.merge([], {}) == []


def test_the_table_is_complete():
    table = clip_bpe.table()
    assert len(table.spelling) == 49406 and len(table.merges) == 48894
    assert len(set(table.spelling)) == 49406
    assert (table.spelling[320], table.spelling[2368]) == (b"a ", b"cat ")


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("  A\tCat \n", "a cat"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("caf\N{LATIN CAPITAL LETTER A WITH TILDE}\N{COPYRIGHT SIGN}", "caf\u00e9"),
        ("&lt;end_of_text&gt;", "<end_of_text>"),
    ],
)
def test_cleaning(text, cleaned):
    assert clip_bpe.clean(text) == cleaned


def test_special_tokens_in_a_text_become_special_ids():
    assert clip_bpe.encode("a <END_of_text> cat") == [320, 49407, 2368]
    assert clip_bpe.encode("<start_of_text>") == [49406]


def test_a_long_run_of_letters_is_encoded_whole_and_soon():
    letters = "".join(np.random.default_rng(0).choice(list("abcdefghij"), 100_000))
    assert clip_bpe.decode(clip_bpe.encode(letters)) == letters


def test_the_first_ids_need_no_look_at_the_words_behind_them(monkeypatch):
    text = "a photo of the astronauts' snowboards, twice"
    whole, seen = clip_bpe.encode(text), []
    monkeypatch.setattr(clip_bpe, "_word_ids", lambda word: seen.append(word) or (len(seen),))
    assert clip_bpe.encode(text, 2) == [1, 2] and seen == ["a", "photo"]
    monkeypatch.undo()
    for limit in range(len(whole) + 2):
        assert clip_bpe.encode(text, limit) == whole[:limit]
