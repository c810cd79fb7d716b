import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from coca_jax.config import default_config
from coca_jax.data.exclude_list import write_list
from coca_jax.data.from_config import (
    caption_texts,
    check_classes,
    make_held_out_captions,
    make_tokenizer_from,
    make_train_stream,
    open_sources,
    sections,
    tokenizer_file,
)
from coca_jax.data.options import data_config
from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data.transforms import images
from coca_jax.data.transforms.images import Resizing
from coca_jax.errors import UserError


@pytest.fixture
def data(prepared):
    found = default_config().data
    found.dir = prepared
    found.threads = 2
    return found


def stream(data, batch_size=60):
    return make_train_stream(
        data, image_size=(32, 32), text_length=64, batch_size=batch_size, seed=0
    )


def test_the_stream_of_a_config(data, prepared):
    data.train.captions = "first"
    batch = next(stream(data).batches())
    assert batch["image"].shape == (60, 32, 32, 3) and batch["image"].dtype == np.uint8
    assert batch["text"].shape == (60, 64) and batch["text"].dtype == np.int32
    source = tfds_source("shapes", "train", prepared)
    captions = sorted(source[i]["captions"][0] for i in range(60))
    assert sorted(make_tokenizer_from(data).decode(batch["text"])) == captions


def test_images_are_resized_as_the_model_says(data, prepared):
    source = tfds_source("shapes", "train", prepared)
    resizing = Resizing("squash", "bilinear")
    options = {"image_size": (32, 16), "text_length": 8, "batch_size": 60, "seed": 0}
    data.train.min_crop_area = 1.0
    data.train.flip = False
    batch = next(make_train_stream(data, resizing=resizing, **options).batches())
    pixels = images.decode(source[0]["image"])
    expected = images.resize_for_evaluation(pixels, (32, 16), resizing)
    assert any(np.array_equal(image, expected) for image in batch["image"])


def test_a_mixture_changes_what_it_names_and_keeps_the_rest(data):
    data.train.captions = "first"
    data.tokenizer.path = tokenizer_file(data)
    data.sources = {
        "half": {"weight": 3.0, "split": "train[:50%]"},
        "words": {"weight": 1.0, "split": "test", "template": "seen: {caption}"},
    }
    found = sections(data)
    assert found["half"].split == "train[:50%]" and found["half"].captions == "first"
    assert found["words"].template and not data.train.template
    made = stream(data, 40)
    assert made.mixture.size == 30 + 20
    texts = make_tokenizer_from(data).decode(next(made.batches())["text"])
    assert 9 <= [text.startswith("seen: ") for text in texts].count(True) <= 11


def test_the_captions_that_a_tokenizer_is_made_of(data, prepared, tmp_path):
    data.train.captions = "first"
    source = tfds_source("shapes", "train", prepared)
    texts, count = caption_texts(data, 1000)
    assert count == len(source)
    assert sorted(texts) == sorted(source[i]["captions"][0] for i in range(count))
    texts, count = caption_texts(data, 7)
    assert count == len([*texts]) == 7
    data.train.exclude_list = str(tmp_path / "duplicates.tsv")
    rows = [(number, *"abc") for number in range(1, len(source))]
    write_list(data.train.exclude_list, rows, {"records": len(source)})
    texts, count = caption_texts(data, 1000)
    assert count == len(source) and [*texts] == source[0]["captions"][:1]


def test_what_cannot_be_opened_is_named(data):
    data.sources = {"a": {}, "b": {"split": "trian"}}
    with pytest.raises(UserError, match=r"^config\.data\.sources\.b: .*has no split 'trian'"):
        open_sources(data_config(data))
    data.sources = {}
    data.train.update({"format": "folder", "path": "nowhere"})
    with pytest.raises(UserError, match=r"^config\.data\.train: .*nowhere"):
        open_sources(data_config(data))


def test_what_is_read_in_order_is_refused_with_results_joined_to_it(data, tmp_path):
    table = pyarrow.table({"jpg": [b"1"], "caption": ["a"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    data.train.update({"format": "parquet", "path": str(tmp_path / "a.parquet")})
    data.train.captions_from = str(tmp_path / "results")
    with pytest.raises(UserError, match=r"^config\.data\.train: format='parquet' is read in order"):
        open_sources(data_config(data))


def test_classes_that_differ_are_shown_and_cut_only_if_many():
    with pytest.raises(UserError, match=r"x has 2 classes: a, b$"):
        check_classes("x", ["a", "b"], ["a", "b", "c"])
    with pytest.raises(UserError, match=r"x has 4 classes: a, b, c, \.\.\.$"):
        check_classes("x", list("abcd"), ["a", "b"])


def test_more_processes_than_examples_are_refused(data):
    options = {"image_size": (32, 32), "text_length": 64, "batch_size": 61, "seed": 0}
    with pytest.raises(UserError, match="60 examples are fewer than the 61 processes"):
        make_train_stream(data, **options, process_count=61)


def test_a_list_that_is_missing_is_named(data):
    data.train.exclude_list = "nowhere.tsv"
    with pytest.raises(UserError, match=r"^config\.data\.train\.exclude_list: .*nowhere"):
        stream(data)


def test_a_tokenizer_needs_a_file_unless_one_lies_beside_the_data(data, prepared):
    assert tokenizer_file(data).startswith(prepared)
    data.train.name = "emoji"
    with pytest.raises(UserError, match=r"^config\.data\.train: data set 'emoji' is not prepared"):
        tokenizer_file(data)
    data.train.format = "webdataset"
    with pytest.raises(UserError, match=r"data\.tokenizer\.path is empty.*train-tokenizer"):
        tokenizer_file(data)
    data.train.format, data.sources = "tfds", {"a": {}}
    with pytest.raises(UserError, match=r"data\.tokenizer\.path is empty"):
        tokenizer_file(data)
    data.tokenizer.path = "mine.model"
    assert tokenizer_file(data) == "mine.model"
    with pytest.raises(UserError, match=r"^config\.data\.tokenizer: .* mine\.model"):
        make_tokenizer_from(data)
    data.tokenizer.update({"kind": "byte", "path": ""})
    assert tokenizer_file(data) == "" and make_tokenizer_from(data).vocab_size == 259


def test_texts_of_held_out_examples_are_the_first_as_training_writes_them(data):
    data.train.update(template="{title}: {caption}", filters=(("title", "==", "other"),))
    record = {"captions": ["one", "two"], "labels": [], "label": -1, "fields": {"title": "T"}}
    for captions in ("sampled", "all"):
        data.train.captions = captions
        make_caption = make_held_out_captions(data)
        texts = {make_caption(record, 1, np.random.default_rng(i)).text for i in range(8)}
        assert texts == {"T: one"}


def test_a_held_out_text_may_have_any_length(data):
    data.train.update(min_characters=9, max_characters=10)
    make_caption = make_held_out_captions(data)
    for text in ("a", "a" * 5000):
        record = {"captions": [text], "labels": [], "label": -1, "fields": {}}
        assert make_caption(record, 0, np.random.default_rng(0)).text == text
