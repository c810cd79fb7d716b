import json
import pathlib
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from coca_jax.data.sources.tfds import tokenizer_path
from coca_jax.data.tokenizers import Tokenizer, make_tokenizer
from coca_jax.data.tokenizers import tokenizers as kinds
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.tokenizers.clip_bpe import ClipTokenizer
from coca_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from coca_jax.data.tokenizers.tokenizer_json import JsonTokenizer
from coca_jax.errors import UserError

OPEN_CLIP = pathlib.Path(__file__).parents[2] / "fixtures/open_clip"
TEXTS = ["a red circle", "", "ein Kreis, größer als 日本", "two  spaces"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has a tokenizer.model and a tokenizer.json, the latter as CLIP's but smaller."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["a red circle", "a blue circle"] * 5
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(texts, 290))
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator(texts, trainer)
    model.add_special_tokens(["<fill>"])
    model.post_processor = tokenizers.processors.RobertaProcessing(
        ("<|endoftext|>", 1), ("<|startoftext|>", 0)
    )
    model.enable_truncation(5)
    model.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<fill>"}')
    return folder


@pytest.fixture(scope="module", params=["byte", "clip", "sentencepiece", "json"])
def tokenizer(request, folder):
    made = make_tokenizer(request.param, folder / kinds[request.param].file_name)
    assert isinstance(made, Tokenizer)
    return made


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


def test_pickled_tokenizers_work_in_another_process(folder):
    program = (
        "import json, pickle, sys\n"
        "for tokenizer in pickle.loads(sys.stdin.buffer.read()):\n"
        f"    ids = tokenizer.encode({TEXTS!r}, 30)\n"
        "    print(json.dumps([ids.tolist(), tokenizer.decode(ids)]))\n"
    )
    made = [make_tokenizer(kind, folder / kinds[kind].file_name) for kind in kinds]
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(made), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    for tokenizer, line in zip(made, done.stdout.splitlines(), strict=True):
        ids = tokenizer.encode(TEXTS, 30)
        assert json.loads(line) == [ids.tolist(), tokenizer.decode(ids)]


def test_threads_get_the_same_ids(tokenizer):
    texts = [f"a red circle {i} größer" for i in range(200)]
    alone = [tokenizer.encode([text], 40) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: tokenizer.encode([text], 40), texts * 3))
    np.testing.assert_array_equal(together, alone * 3)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.decode, alone)) == [tokenizer.decode(row) for row in alone]


def test_only_what_is_not_known_has_unknown_ids(tokenizer):
    assert tokenizer.unk_id is None or tokenizer.unk_id in tokenizer.unknown_ids
    assert all(0 <= i < tokenizer.vocab_size for i in tokenizer.unknown_ids)
    known, strange = (set(row.tolist()) for row in tokenizer.encode(["a red circle", "\u65e5"], 20))
    assert not known & tokenizer.unknown_ids
    assert bool(strange & tokenizer.unknown_ids) == bool(tokenizer.unknown_ids)


def test_one_file_is_enough(folder, tmp_path):
    for kind in ("sentencepiece", "json"):
        name, read = kinds[kind].file_name, kinds[kind].standalone_file
        copy = tmp_path / name
        copy.write_bytes(read(folder / name))
        assert read(copy) == copy.read_bytes()
        first, second = make_tokenizer(kind, folder / name), make_tokenizer(kind, copy)
        np.testing.assert_array_equal(first.encode(TEXTS, 30), second.encode(TEXTS, 30))
        assert (first.vocab_size, first.unknown_ids) == (second.vocab_size, second.unknown_ids)


def test_the_paths_of_a_sentencepiece_models_corpus_are_left_out(folder, tmp_path):
    content = (folder / "tokenizer.model").read_bytes()
    assert SentencePieceTokenizer.standalone_file(folder / "tokenizer.model") == content
    model = ModelProto.FromString(content)
    model.trainer_spec.input.extend(["/secret/a.txt", "/secret/b.txt"])
    model.trainer_spec.model_prefix = "/secret/model"
    (tmp_path / "with").write_bytes(model.SerializeToString())
    bare = SentencePieceTokenizer.standalone_file(tmp_path / "with")
    (tmp_path / "without").write_bytes(bare)
    assert b"secret" not in bare
    with_paths, without = (
        make_tokenizer("sentencepiece", tmp_path / n) for n in ("with", "without")
    )
    np.testing.assert_array_equal(with_paths.encode(TEXTS, 30), without.encode(TEXTS, 30))


def test_json_gives_the_librarys_ids(folder):
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    model.no_truncation()
    tokenizer = JsonTokenizer(folder / "tokenizer.json")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.pad_id == model.token_to_id("<fill>") == tokenizer.vocab_size - 1
    for row, text in zip(tokenizer.encode(TEXTS, 60).tolist(), TEXTS, strict=True):
        ids = model.encode(text).ids
        assert row == ids + [tokenizer.pad_id] * (60 - len(ids))


def test_json_reads_berts_words(tmp_path):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "."]
    pieces = tokenizers.models.WordPiece(
        {name: i for i, name in enumerate(names)}, unk_token="[UNK]"
    )
    model = tokenizers.Tokenizer(pieces)
    model.normalizer = tokenizers.normalizers.BertNormalizer()
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    model.decoder = tokenizers.decoders.WordPiece()
    model.add_special_tokens(names[:4])
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    ids = tokenizer.encode(["A cats.", "dog"], 7)
    np.testing.assert_array_equal(ids, [[2, 4, 5, 6, 7, 3, 0], [2, 1, 3, 0, 0, 0, 0]])
    assert (tokenizer.unk_id, tokenizer.unknown_ids) == (1, {1})
    assert tokenizer.decode(np.array([[2, 4, 5, 6, 99, -1, 3, 0], [4, 0, 0, 0, 0, 0, 0, 0]])) == [
        "a cats",
        "a",
    ]


def test_no_text_ends_or_pads_a_json_row_itself(folder):
    tokenizer = JsonTokenizer(folder / "tokenizer.json")
    row = tokenizer.encode(["a <|endoftext|><fill>red <|startoftext|>circle"], 40)
    assert tokenizer.decode(row) == ["a red circle"]
    assert (row == tokenizer.eos_id).sum() == (row == tokenizer.bos_id).sum() == 1


def test_json_tokenizers_start_no_threads_and_survive_forks(folder):
    program = (
        "import os, sys\n"
        "from coca_jax.data.tokenizers.tokenizer_json import JsonTokenizer\n"
        "tokenizer = JsonTokenizer(sys.argv[1])\n"
        "threads = len(os.listdir('/proc/self/task'))\n"
        "ids = tokenizer.encode(['a red circle'] * 1000, 9)\n"
        "assert len(os.listdir('/proc/self/task')) == threads\n"
        "if not (child := os.fork()):\n"
        "    os._exit(int((tokenizer.encode(['a red circle'] * 1000, 9) != ids).any()))\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    command = [sys.executable, "-c", program, str(folder / "tokenizer.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_unigram_models_are_made_too():
    texts = ["a red circle", "a blue circle", "many green stars"] * 50
    trained = [train_sentencepiece(texts, 300, "unigram", most_texts=120) for _ in range(2)]
    assert trained[0] == trained[1]
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained[0])
    names = ["<pad>", "<unk>", "<s>", "</s>", "<0x00>"]
    assert [pieces.id_to_piece(i) for i in range(5)] == names
    assert pieces.encode("a \u65e5")[-3:] == [4 + byte for byte in "\u65e5".encode()]


def test_missing_and_broken_models_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no SentencePiece model at .*nowhere\.model"):
        SentencePieceTokenizer(tmp_path / "nowhere.model")
    (tmp_path / "broken.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"broken\.model is not a SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "broken.model")
    with pytest.raises(UserError, match=r"no tokenizer\.json at .*nowhere\.json"):
        JsonTokenizer.standalone_file(tmp_path / "nowhere.json")
    with pytest.raises(
        UserError, match=r"'bpe' does not exist; there are sentencepiece, byte, clip, json"
    ):
        make_tokenizer("bpe")
    with pytest.raises(UserError, match="tokenizer 'json' needs the path of a file"):
        make_tokenizer("json", "")
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
