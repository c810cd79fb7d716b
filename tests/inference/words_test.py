import numpy as np
import pytest

from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.tokenizers.clip_bpe import ClipTokenizer
from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from coca_jax.inference.words import mean_by_word


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue circle"] * 5, 275))
    return SentencePieceTokenizer(path)


def means(tokenizer, text, length=40):
    """By word, the mean of the places of its tokens in the text, counted from 1."""
    ids = tokenizer.encode([text], length)[0]
    averages = mean_by_word(tokenizer, ids, np.arange(1, length + 1, dtype=np.float32)[:, None])
    return [(word, float(value[0])) for word, value in averages]


def test_a_word_has_the_mean_of_the_positions_that_predict_its_bytes():
    # Bytes: a 1, space 2, blue 3 to 6, space 7, ü 8 and 9. A space begins a word.
    assert means(ByteTokenizer(), "a blue ü") == [("a", 1), ("blue", 4), ("ü", 8)]


def test_cut_texts_and_texts_without_words():
    assert means(ByteTokenizer(), "ab cd", 6) == [("ab", 1.5), ("c", 3.5)]
    assert means(ByteTokenizer(), "") == means(ByteTokenizer(), "  ") == []


def test_what_stands_beside_a_word_is_part_of_it():
    assert means(ClipTokenizer(), "a dog, a cat!") == [
        ("a", 1),
        ("dog", 2),
        (",", 3),
        ("a", 4),
        ("cat", 5),
        ("!", 6),
    ]


def test_pieces_of_words(pieces):
    text = "a red circle, größer"
    by_word = means(pieces, text)
    assert [word for word, _ in by_word] == text.split()
    # Weighted by their tokens, the words' means are that of all tokens.
    counts = [np.count_nonzero(pieces.encode([word], 40)) - 2 for word in text.split()]
    total = sum(counts)
    assert counts[-1] > 1
    middle = np.average([value for _, value in by_word], weights=counts)
    assert middle == pytest.approx((total + 1) / 2)


class Joining(ByteTokenizer):
    """Like WordPiece's, its decoder joins apostrophes to what stands before them."""

    def to_texts(self, rows):
        return [text.replace(" '", "'") for text in super().to_texts(rows)]


def test_words_that_a_decoder_joins_are_one():
    assert [word for word, _ in means(Joining(), "it 's so")] == ["it's", "so"]


class Spelling(ByteTokenizer):
    """One of its tokens is three words."""

    def to_texts(self, rows):
        return [text.replace("&", " and so on") for text in super().to_texts(rows)]


def test_words_of_one_token_come_as_one():
    assert means(Spelling(), "a& b") == [("a", 1), ("and so on", 2), ("b", 3.5)]
