import copy
import functools
import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from fuzz.drawing import CHANGE, TEXT, edited, edits, put
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.errors import UserError

pytestmark = pytest.mark.slow

WORDS = ["a cat", "a dog on a mat", "the cat and the dog"]


@functools.cache
def pieces():
    """The bytes of a small SentencePiece model."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 9),
        model_writer=file,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=9,
    )
    return file.getvalue()


@functools.cache
def described():
    """The content of a small tokenizer.json."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=60, special_tokens=special, show_progress=False
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.train_from_iterator(WORDS, trainer)
    return json.loads(model.to_str())


def use(kind, path, text):
    """Encodes and decodes a text, if the file is a tokenizer."""
    try:
        tokenizer = make_tokenizer(kind, str(path))
    except UserError as error:
        assert str(error).strip()
        return
    ids = tokenizer.encode([text, "a cat"], 9)
    assert ids.shape == (2, 9) and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    assert (ids[:, 0] == tokenizer.bos_id).all() and (ids == tokenizer.eos_id).any(axis=1).all()
    assert len(tokenizer.decode(ids)) == 2
    tokenizer.decode(np.full((1, 3), tokenizer.vocab_size - 1, np.int32))


@fuzz(60, changes=edits(), text=TEXT)
def test_a_damaged_sentencepiece_model_is_used_or_refused(folder, changes, text):
    (folder / "tokenizer.model").write_bytes(edited(pieces(), changes))
    use("sentencepiece", folder / "tokenizer.model", text)


NEIGHBOR = st.sampled_from(["tokenizer_config.json", "special_tokens_map.json"])
ROLES = st.dictionaries(
    st.sampled_from(["eos_token", "bos_token", "pad_token", "sep_token"]),
    st.sampled_from(["</s>", "<s>", "<pad>", "", {"content": "</s>"}, {}, 5, None, "missing"]),
)


@fuzz(
    60,
    trees=st.lists(CHANGE, max_size=3),
    changes=edits(most=1),
    text=TEXT,
    name=NEIGHBOR,
    roles=ROLES | st.binary(max_size=4),
)
def test_a_damaged_tokenizer_json_is_used_or_refused(folder, trees, changes, text, name, roles):
    tree = copy.deepcopy(described())
    for place, value in trees:
        put(tree, place, value)
    (folder / "tokenizer.json").write_bytes(edited(json.dumps(tree).encode(), changes))
    neighbor = roles if isinstance(roles, bytes) else json.dumps(roles).encode()
    (folder / name).write_bytes(neighbor)
    use("json", folder / "tokenizer.json", text)
