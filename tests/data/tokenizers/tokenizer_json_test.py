import json

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from coca_jax.data.tokenizers import tokenizer_json
from coca_jax.errors import UserError

TEXTS = ["a red circle", "a blue circle", "a green star"] * 5


def word_level(*tokens, processor=None):
    """A tokenizer of the words "a" and "b", ids 0 and 1, and of special tokens from 2 on."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(tokens))
    if processor:
        tokenizer.post_processor = processor
    return tokenizer


def saved(tokenizer, folder, **neighbors):
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    for name, content in neighbors.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return path


def roles(path):
    contents = tokenizer_json.read(path)
    return contents.bos_id, contents.eos_id, contents.pad_id


def test_neighbors_say_the_roles_first(tmp_path):
    tokenizer = word_level("<s>", "</s>", "<pad>", "x", "y", "z")
    neighbors = {
        "tokenizer_config": {"bos_token": "x", "eos_token": {"content": "y"}, "pad_token": None},
        "special_tokens_map": {"bos_token": "<s>", "pad_token": "z"},
    }
    assert roles(saved(tokenizer, tmp_path, **neighbors)) == (5, 6, 7)


def test_classes_and_separators_begin_and_end(tmp_path):
    neighbors = {"tokenizer_config": {"cls_token": "x", "sep_token": "y", "pad_token": "z"}}
    assert roles(saved(word_level("x", "y", "z"), tmp_path, **neighbors)) == (2, 3, 4)


@pytest.mark.parametrize(
    "processor",
    [
        processors.BertProcessing(("y", 3), ("x", 2)),
        processors.RobertaProcessing(("y", 3), ("x", 2)),
        processors.TemplateProcessing("x $A y", special_tokens=[("x", 2), ("y", 3)]),
        processors.Sequence(
            [
                processors.ByteLevel(),
                processors.TemplateProcessing("x:1 $0 y z", None, [("x", 2), ("y", 3), ("z", 4)]),
            ]
        ),
    ],
)
def test_post_processor_and_padding_say_the_roles(processor, tmp_path):
    tokenizer = word_level("x", "y", "z", "<s>", "</s>", processor=processor)
    tokenizer.enable_padding(pad_id=4, pad_token="z")
    assert roles(saved(tokenizer, tmp_path)) == (2, 3, 4)


@pytest.mark.parametrize(
    "names",
    [
        ("[CLS]", "[SEP]", "[PAD]"),
        ("<s>", "</s>", "<pad>"),
        ("<bos>", "<eos>", "<pad>"),
        ("<|startoftext|>", "<|endoftext|>", "<|pad|>"),
    ],
)
def test_usual_names_say_the_roles_at_last(names, tmp_path):
    assert roles(saved(word_level("[MASK]", *names), tmp_path)) == (3, 4, 5)


def test_only_special_tokens_are_taken_by_their_names(tmp_path):
    tokenizer = word_level("<s>", "</s>")
    tokenizer.add_tokens(["<pad>"])
    with pytest.raises(UserError, match="no token of its own for pad"):
        roles(saved(tokenizer, tmp_path))


def test_a_token_has_one_role_and_adding_the_others_helps(tmp_path):
    end = "<|endoftext|>"
    neighbors = {"tokenizer_config": {"bos_token": end, "eos_token": end, "pad_token": end}}
    tokenizer = word_level(end)  # as GPT-2's
    path = saved(tokenizer, tmp_path, **neighbors)
    with pytest.raises(
        UserError, match=r"own for bos and pad: .*\(bos_token, pad_token\)"
    ) as raised:
        roles(path)
    assert str(raised.value).endswith("t.add_special_tokens(['<s>', '<pad>']); t.save(path)")
    tokenizer.add_special_tokens(["<s>", "<pad>"])
    assert roles(saved(tokenizer, tmp_path)) == (3, 2, 4)


def test_what_is_read_needs_no_neighbors(tmp_path):
    tokenizer = word_level("<s>", "</s>", "x", "y", "z")
    neighbors = {"tokenizer_config": {"bos_token": "x", "eos_token": "y", "pad_token": "z"}}
    tokenizer.enable_truncation(1)
    contents = tokenizer_json.read(saved(tokenizer, tmp_path, **neighbors))
    alone = tmp_path / "alone" / "tokenizer.json"
    alone.parent.mkdir()
    alone.write_text(contents.text)
    assert tokenizer_json.read(alone) == contents
    encoded = Tokenizer.from_file(str(alone)).encode_batch(["b a", "a"])
    assert [one.ids for one in encoded] == [[4, 1, 0, 5], [4, 0, 5, 6]]


def test_unknown_tokens_and_bytes(tmp_path):
    pieces = [("a", 0.0), ("<pad>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("?", 0.0)]
    pieces += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=4, byte_fallback=True))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    contents = tokenizer_json.read(saved(tokenizer, tmp_path))
    assert (contents.unk_id, contents.byte_ids) == (4, frozenset(range(5, 261)))
    contents = tokenizer_json.read(saved(word_level("<s>", "</s>", "<pad>"), tmp_path))
    assert (contents.unk_id, contents.byte_ids) == (0, frozenset())


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0}, unk_token="[UNK]"),
        models.WordPiece({"a": 0}, unk_token="[UNK]"),
        models.BPE({"a": 0}, [], unk_token="[UNK]"),
        models.Unigram([("a", 0.0)]),
    ],
)
def test_a_tokenizer_that_fails_at_unknown_words_is_refused(model, tmp_path):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "[UNK]"])  # not in the model
    path = saved(tokenizer, tmp_path)
    with pytest.raises(UserError, match=r'words that it does not know .*"unk_token"'):
        tokenizer_json.read(path)


def test_files_saved_by_editors_of_windows_are_read(tmp_path):
    path = saved(word_level("x", "<s>", "</s>", "<pad>"), tmp_path, tokenizer_config={})
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"bos_token": "x"}', encoding="utf-8-sig")
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert roles(path) == (2, 4, 5)


def test_dropout_is_off(tmp_path):
    tokenizer = Tokenizer(models.BPE(dropout=0.5))
    special = ["<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=60, show_progress=False, special_tokens=special)
    )
    path = saved(tokenizer, tmp_path)
    assert json.loads(path.read_text())["model"]["dropout"] == 0.5
    assert json.loads(tokenizer_json.read(path).text)["model"]["dropout"] is None


def test_normalizer_and_decoder_stay(tmp_path):
    tokenizer = word_level("<s>", "</s>", "<pad>")
    tokenizer.normalizer, tokenizer.decoder = normalizers.Lowercase(), decoders.Metaspace()
    path = saved(tokenizer, tmp_path)
    before, after = json.loads(path.read_text()), json.loads(tokenizer_json.read(path).text)
    changed = {"post_processor", "padding", "truncation"}
    assert {k: v for k, v in before.items() if k not in changed} == {
        k: v for k, v in after.items() if k not in changed
    }


def test_errors_are_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"there is no tokenizer\.json at .*tokenizer\.json"):
        tokenizer_json.read(path)
    for content in (b"not JSON", b"{}", b"[]", b"\xff\xfe", b'{"model": 3}'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer\.json: "):
            tokenizer_json.read(path)
    path = saved(word_level("<s>"), tmp_path)
    for content, wrong in (("{", "is not JSON"), ("[]", "should be a JSON object, not list")):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(UserError, match=rf"tokenizer_config\.json {wrong}"):
            tokenizer_json.read(path)
