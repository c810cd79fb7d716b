import json
import pathlib
import pickle

import numpy as np
import pytest

from coca_jax.data.sources import tokenizer_path
from coca_jax.data.tokenizers import (
    ByteTokenizer,
    ClipTokenizer,
    SentencePieceTokenizer,
    make_tokenizer,
    train_sentencepiece,
)
from coca_jax.errors import UserError

OPEN_CLIP = pathlib.Path(__file__).parent.parent / "fixtures/open_clip"
TEXTS = ["a red circle", "", "ein Kreis, größer als 日本", "two  spaces"]


@pytest.fixture(scope="module", params=["byte", "clip", "sentencepiece"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue circle"] * 5, 290))
    return make_tokenizer(request.param, path)


def test_bytes_are_shifted_past_the_special_ids():
    rows = ByteTokenizer().encode(["AB", ""], 5)
    np.testing.assert_array_equal(rows, [[1, 68, 69, 2, 0], [1, 2, 0, 0, 0]])
    assert rows.dtype == np.int32


def test_clip_gives_openclips_ids():
    recorded = json.loads((OPEN_CLIP / "tokens.json").read_text())
    assert len(recorded) > 100
    rows = ClipTokenizer().encode([record["text"] for record in recorded], 76)
    for row, record in zip(rows.tolist(), recorded, strict=True):
        padding = [0] * (76 - len(record["ids"]))
        assert row == record["ids"] + padding, record["text"]


def test_clip_decodes_exclamation_marks_but_not_the_padding_of_the_same_id():
    tokenizer = ClipTokenizer()
    (row,) = tokenizer.encode(["so!~!~!"], 12)
    end = row.tolist().index(tokenizer.eos_id)
    assert tokenizer.pad_id in row[:end] and tokenizer.pad_id in row[end:]
    row[end] = tokenizer.pad_id  # as in a caption that was cut off
    assert tokenizer.decode(row[None]) == ["so !~!~!"]


def test_clip_decodes_any_ids():
    tokenizer = ClipTokenizer()
    (row,) = tokenizer.encode(["\N{SNOWBOARDER}\u0378"], 12)
    cut = row[1 : row.tolist().index(tokenizer.eos_id) - 1]
    assert tokenizer.decode(cut[None])[0].endswith("\N{REPLACEMENT CHARACTER}")
    beyond = [tokenizer.bos_id, 320, tokenizer.vocab_size, -1, tokenizer.bos_id, 2368]
    assert tokenizer.decode(np.array([beyond])) == ["a cat"]


def test_cut_texts_keep_bos_and_eos(tokenizer):
    whole = tokenizer.encode(["a red circle " * 9], 200)[0]
    cut = tokenizer.encode(["a red circle " * 9], 6)[0]
    np.testing.assert_array_equal(cut[:5], whole[:5])
    assert (cut[0], cut[5]) == (tokenizer.bos_id, tokenizer.eos_id)


def test_decoding_gives_the_text_back(tokenizer):
    texts = [text for text in TEXTS if "  " not in text]  # SentencePiece joins spaces
    if isinstance(tokenizer, ClipTokenizer):  # knows no capitals, and a word from its spaces only
        texts = [text.lower().replace(",", " ,") for text in texts]
    assert tokenizer.decode(tokenizer.encode(texts, 64)) == texts


def test_decoding_stops_at_the_first_eos(tokenizer):
    row = tokenizer.encode(["a red circle"], 40)[0]
    end = row.tolist().index(tokenizer.eos_id)
    row[end + 1 :] = row[1]
    assert tokenizer.decode(row[None]) == ["a red circle"]


def test_special_ids_are_distinct_and_in_the_vocabulary(tokenizer):
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    assert len(special) == 3 and max(special) < tokenizer.vocab_size
    ids = tokenizer.encode(TEXTS, 64)
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size


def test_pickled_tokenizers_work(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy.encode(TEXTS, 30), tokenizer.encode(TEXTS, 30))


def test_missing_and_broken_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no SentencePiece model at .*nowhere\.model"):
        SentencePieceTokenizer(tmp_path / "nowhere.model")
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"broken\.model is not a SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "broken.model")
    with pytest.raises(UserError, match="unknown tokenizer kind 'bpe'"):
        make_tokenizer("bpe")
    with pytest.raises(UserError, match="at least 2"):
        ByteTokenizer().encode(["a"], 1)


def test_the_prepared_tokenizer_needs_few_ids_for_a_scene(prepared):
    tokenizer = SentencePieceTokenizer(tokenizer_path("shapes", prepared))
    caption = (
        "a small red circle at the top left, a large blue star at the top right"
        " and a small green ring at the bottom left"
    )
    row = tokenizer.encode([caption], 80)
    assert tokenizer.decode(row) == [caption]
    assert (row != tokenizer.pad_id).sum() == 28  # a piece a word and a comma, bos and eos
