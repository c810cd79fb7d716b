import pytest
import sentencepiece

from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from coca_jax.data_tools import train_tokenizer as module
from coca_jax.data_tools.train_tokenizer import train_tokenizer
from coca_jax.errors import UserError

TEXTS = ["a red circle", "a blue circle", "many green stars"] * 50


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_model_has_so_many_pieces(model_type, tmp_path, capsys):
    out = tmp_path / "new" / "tokenizer.model"
    pieces = train_tokenizer(iter(TEXTS), out, 280, model_type, len(TEXTS))
    assert pieces == sentencepiece.SentencePieceProcessor(model_file=str(out)).vocab_size() <= 280
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer.model"]
    tokenizer = SentencePieceTokenizer(out)
    assert tokenizer.decode(tokenizer.encode(["a green circle"], 30)) == ["a green circle"]
    printed = capsys.readouterr()
    assert f"training a 280-piece {model_type} model on 150 texts" in printed.out
    assert "trained in " in printed.out
    assert "reading texts: 100%" in printed.err


def test_fewer_pieces_are_made_of_few_texts(tmp_path):
    assert 260 < train_tokenizer(TEXTS, tmp_path / "tokenizer.model", 64_000) < 320


def test_of_many_texts_some_are_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "MOST_TEXTS", 120)
    models = [tmp_path / name for name in ("one", "two")]
    for model in models:
        train_tokenizer(TEXTS, model, 290, "bpe")
    assert models[0].read_bytes() == models[1].read_bytes()
    assert capsys.readouterr().out.count("on 120 texts") == 2


def test_broken_and_blank_texts_are_no_hindrance(tmp_path, capsys):
    texts = [*TEXTS, "", "  ", "half \ud83d", "nul \0", "two\nlines"]
    train_tokenizer(texts, tmp_path / "tokenizer.model", 300)
    assert "on 153 texts" in capsys.readouterr().out


def test_an_error_of_the_texts_comes_out_and_leaves_the_old_model(tmp_path):
    def texts():
        yield from TEXTS
        raise error

    out = tmp_path / "tokenizer.model"
    out.write_bytes(b"old")
    for error in (UserError("a shard is gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            train_tokenizer(texts(), out, 280)
        assert raised.value is error
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_errors_are_named(tmp_path):
    out = tmp_path / "tokenizer.model"
    for texts in ([], ["", " "]):
        with pytest.raises(UserError, match="there are no texts to train a tokenizer on"):
            train_tokenizer(texts, out, 280)
    with pytest.raises(UserError, match=r"vocab_size=100 is too small: .* need 27\d$"):
        train_tokenizer(TEXTS, out, 100)
    with pytest.raises(UserError, match="model type 'word' should be one of unigram, bpe"):
        train_tokenizer(TEXTS, out, 280, "word")
    with pytest.raises(UserError, match="cannot give a model of vocab_size=-5 pieces"):
        train_tokenizer(TEXTS, out, -5)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_refused_before_the_texts_are_read(tmp_path):
    texts = iter(TEXTS)
    with pytest.raises(UserError, match="is a folder; it should be a file"):
        train_tokenizer(texts, tmp_path, 280)
    assert next(texts) == TEXTS[0]
