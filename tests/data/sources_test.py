import sys

import pytest

from coca_jax.data import images
from coca_jax.data.sources import Source, tfds_source, tokenizer_path
from coca_jax.errors import UserError


def test_records_have_encoded_images_and_texts(prepared):
    source = tfds_source("shapes", "train", prepared)
    assert isinstance(source, Source) and len(source) == 60
    record = source[0]
    assert record["image"].startswith(b"\x89PNG")
    assert all(isinstance(caption, str) for caption in record["captions"])
    assert len(record["questions"]) == len(record["answers"]) > 0


def test_labels_are_those_of_scenes_with_one_shape(prepared):
    source = tfds_source("shapes", "test", prepared)
    assert source.class_names[0] == "red circle" and len(source.class_names) == 64
    for i in range(len(source)):
        record = source[i]
        if " and " in record["captions"][0]:
            assert record["label"] == -1
        else:
            assert source.class_names[record["label"]] in record["captions"][0]


def test_parts_of_a_split_can_be_asked_for(prepared):
    whole = tfds_source("shapes", "train", prepared)
    part = tfds_source("shapes", "train[50%:]", prepared)
    assert len(part) == 30 and part[0] == whole[30]


def test_mistakes_are_named(prepared, tmp_path):
    with pytest.raises(UserError, match=r"'shapes' is not prepared.*`coca data prepare shapes`"):
        tfds_source("shapes", "train", str(tmp_path))
    with pytest.raises(UserError, match=r"'cifar10' is not prepared.*download_and_prepare"):
        tfds_source("cifar10", "train", str(tmp_path))
    with pytest.raises(UserError, match=r"'shapes' has no split 'trian', only \['test', "):
        tfds_source("shapes", "trian", prepared)
    with pytest.raises(UserError, match="coca data prepare shapes"):
        tokenizer_path("shapes", str(tmp_path))


def test_images_are_readable_without_tensorflow(prepared):
    record = tfds_source("shapes", "test", prepared)[0]
    assert images.decode(record["image"]).shape == (32, 32, 3)
    assert "tensorflow" not in sys.modules
