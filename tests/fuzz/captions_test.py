import functools

import numpy as np
import pytest
from fuzz.drawing import TEXT, VALUE, encoded
from fuzz.running import fuzz
from hypothesis import strategies as st
from memory_source import MemorySource

from coca_jax.data.captions import CHOICES, OPERATORS, CaptionMaker, Text
from coca_jax.data.errors import ERROR_KINDS, BadExample
from coca_jax.data.examples import BatchMaker, DataSet
from coca_jax.data.mixture import RecordRef
from coca_jax.data.pipeline import evaluation_batches
from coca_jax.data.sources.base import is_text, to_labels
from coca_jax.data.texts import to_captions
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.transforms.augment import Augment
from coca_jax.errors import UserError

pytestmark = pytest.mark.slow

FIELD = st.sampled_from(["title", "score", "questions", "answers", "a b", "caption", ""])
TEMPLATE = st.sampled_from(
    [
        *("", "{caption}", "{title}. {caption}", "{score:.2f}", "{score:c}", "{title:d}", "none"),
        *("{title!r}", "{title[0]}", "{title.a}", "{", "{}", "{0}", "{a b}", "{caption:{score}}"),
    ]
)
LISTED = st.lists(VALUE, max_size=3)
FILTER = st.tuples(FIELD, st.sampled_from([*OPERATORS, "~"]), VALUE)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "captions": st.sampled_from([*CHOICES, "every"]),
        "template": TEMPLATE,
        "prompts": st.lists(st.sampled_from(["a {}", "{}", "{} {0}", "no"]), max_size=2),
        "min_characters": st.integers(0, 3),
        "max_characters": st.integers(0, 20),
        "filters": st.lists(
            st.tuples(FIELD, st.sampled_from([*OPERATORS, "~"]), VALUE), max_size=2
        ),
        "questions": st.tuples(FIELD, FIELD),
        "use_labels": st.booleans(),
    },
)
FILE = st.sampled_from([encoded(), encoded("PNG", "P"), b"", b"none", [], [encoded()], [b""]])
STORED = st.fixed_dictionaries(
    {
        "image": FILE,
        "captions": st.lists(TEXT | VALUE, max_size=3),
        "labels": st.lists(st.integers(-1, 3) | TEXT | VALUE, max_size=2),
        "fields": st.dictionaries(FIELD, VALUE | LISTED, max_size=4),
    }
)
CLASSES = ("cat", "dog", "a caption")


class Stored(MemorySource):
    """Records that are made, as every source does, from what is stored."""

    class_names = CLASSES

    def __getitem__(self, index):
        stored = super().__getitem__(index)
        label, labels = to_labels(stored["labels"], self.class_names)
        return {**stored, **to_captions(stored["captions"]), "label": label, "labels": labels}


@functools.cache
def tokenizer(kind):
    return make_tokenizer(kind, "")


@fuzz(200, stored=STORED, options=OPTIONS, visit=st.integers(0, 5))
def test_a_record_has_a_text_or_is_bad(folder, stored, options, visit):
    try:
        make = CaptionMaker(**options)
    except UserError:
        return
    try:
        text = make(Stored([stored])[0], visit, np.random.default_rng(0))
    except BadExample as error:
        assert error.kind in ERROR_KINDS and error.reason
        return
    assert isinstance(text, Text)
    if options.get("captions") != "none":
        assert text.text.strip() and is_text(text.text) and "\0" not in text.text


@fuzz(200, text=TEXT, length=st.integers(2, 40))
def test_texts_become_ids_and_come_back(folder, text, length):
    for kind in ("byte", "clip"):
        words = tokenizer(kind)
        ids = words.encode([text, ""], length)
        assert ids.shape == (2, length) and ids.min() >= 0 and ids.max() < words.vocab_size
        assert (ids == words.eos_id).any(axis=1).all()
        assert len(words.decode(ids)) == 2
    if len(text.encode()) <= 1000:
        assert tokenizer("byte").decode(tokenizer("byte").encode([text], 1002)) == [text]


@fuzz(100, stored=st.lists(STORED, min_size=1, max_size=6), options=OPTIONS)
def test_every_row_of_a_batch_is_an_example_and_the_rest_is_counted(folder, stored, options):
    try:
        part = DataSet(Stored(stored), CaptionMaker(**options), Augment((8, 8)))
    except UserError:
        return
    make = BatchMaker([part], tokenizer("byte"), image_size=(8, 8), text_length=9, classes=CLASSES)
    rngs = [np.random.default_rng(i) for i in range(len(stored))]
    try:
        with pytest.MonkeyPatch.context() as patch:  # of its thousand, which take long
            patch.setattr("coca_jax.data.examples.MAX_SUBSTITUTES", 9)
            batch = make([RecordRef(0, i, 0) for i in range(len(stored))], rngs)
    except UserError as error:
        assert "10 unusable" in str(error)
        return
    assert batch["image"].shape == (len(stored), 8, 8, 3)
    counted = {kind: batch[kind].sum() for kind in ERROR_KINDS}
    assert {kind: [f.kind for f in batch["errors"]].count(kind) for kind in ERROR_KINDS} == counted


@fuzz(60, stored=st.lists(STORED, min_size=1, max_size=6), size=st.integers(1, 4))
def test_an_evaluation_has_every_record_or_counts_it(folder, stored, size):
    batches = evaluation_batches(Stored(stored), (8, 8), size, threads=2)
    try:
        batches = list(batches)
    except UserError as error:
        assert f"none of the {len(stored)} images" in str(error)
        return
    rows = sum(len(batch["image"]) for batch in batches)
    assert rows + sum(batch["bad_image"] for batch in batches) == len(stored)
    for batch in batches:
        assert len(batch["captions"]) == len(batch["image"])
        assert all(is_text(text) for texts in batch["captions"] for text in texts)
