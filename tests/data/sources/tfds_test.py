import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tf_examples import example, write_array_record

from coca_jax.data.sources import Source
from coca_jax.data.sources.tfds import tfds_source, tokenizer_path
from coca_jax.data.transforms import images
from coca_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a data set with given features and examples, one file for each list."""

    def make(features, shards, name="mine", version="1.0.0", config=""):
        made = tmp_path / name / config / version
        made.mkdir(parents=True)
        for i, examples in enumerate(shards):
            shard = made / f"{name}-train.array_record-{i:05}-of-{len(shards):05}"
            write_array_record(shard, [example(features) for features in examples])
        template = tfds.core.ShardedFileTemplate(
            made, dataset_name=name, split="train", filetype_suffix="array_record"
        )
        split = tfds.core.SplitInfo(
            name="train",
            shard_lengths=[len(shard) for shard in shards],
            num_bytes=0,
            filename_template=template,
        )
        tfds.folder_dataset.write_metadata(
            data_dir=made, features=features, split_infos=[split], check_data=False
        )
        return made

    return make


def test_records_have_encoded_images_and_texts(prepared):
    source = tfds_source("shapes", "train", prepared)
    assert isinstance(source, Source) and len(source) == 60
    record = source[0]
    assert record["image"].startswith(b"\x89PNG")
    assert all(isinstance(caption, str) for caption in record["captions"])
    fields = record["fields"]
    assert len(fields["questions"]) == len(fields["answers"]) > 0


def test_labels_are_those_of_scenes_with_one_shape(prepared):
    source = tfds_source("shapes", "test", prepared)
    assert source.class_names[0] == "red circle" and len(source.class_names) == 64
    for i in range(len(source)):
        record = source[i]
        if " and " in record["captions"][0]:
            assert record["label"] == -1 and record["labels"] == []
        else:
            (name,) = record["labels"]
            assert source.class_names[record["label"]] == name in record["captions"][0]


def test_parts_of_a_split_can_be_asked_for(prepared):
    whole = tfds_source("shapes", "train", prepared)
    part = tfds_source("shapes", "train[50%:]", prepared)
    assert len(part) == 30 and part[0] == whole[30]
    assert len(tfds_source("shapes", "train+test", prepared)) == 80


def test_name_version_and_path_open_the_same(prepared):
    records = [
        tfds_source(*arguments)[7]
        for arguments in (
            ("shapes", "train", prepared),
            ("shapes:1.1.0", "train", prepared),
            ("shapes:1.*.*", "train", prepared),
            ("", "train", None, f"{prepared}/shapes/1.1.0"),
        )
    ]
    assert all(record == records[0] for record in records)
    path = f"{prepared}/shapes/1.1.0"
    assert tokenizer_path("", path=path) == Path(path) / "tokenizer.model"


def test_versions_and_configs(folder, tmp_path):
    features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
    for version, config in (("1.0.0", ""), ("1.2.0", ""), ("1.0.0", "small")):
        text = f"{version} {config}".encode()
        folder(features, [[{"image": [b"i"], "caption": [text]}]], version=version, config=config)
    for name, text in (
        ("mine", "1.2.0 "),
        ("mine:1.0.0", "1.0.0 "),
        ("mine/small", "1.0.0 small"),
        ("mine/small:1.0.0", "1.0.0 small"),
    ):
        assert tfds_source(name, "train", str(tmp_path))[0]["captions"] == [text]


def test_files_of_records(folder):
    features = {
        "image": tfds.features.Image(),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=["cat", "dog"])),
    }
    shards = [[{"image": [b"%d" % i], "labels": [1, 0]}] * n for i, n in enumerate((3, 0, 2))]
    path = folder(features, shards)
    source = tfds_source("", "train[1:]", path=str(path))
    assert source.class_names == ["cat", "dog"] and source[0]["labels"] == ["dog", "cat"]
    for i, shard in enumerate((0, 0, 2, 2)):
        assert source[i]["image"] == b"%d" % shard
        assert source.shard(i).endswith(f"-{shard:05}-of-00003")
    Path(source.shard(3)).unlink()
    assert len(tfds_source("", "train", path=str(path))) == 5
    with pytest.raises(RuntimeError, match="No such file"):
        tfds_source("", "train", path=str(path))[4]


def test_nested_features(folder):
    features = {
        "image": {"encoded": tfds.features.Text(), "height": tfds.features.Scalar(np.int64)},
        "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
    }
    data = {"image/encoded": [b"i"], "image/height": [2], "captions/text": [b"a", b"b"]}
    record = tfds_source("", "train", path=str(folder(features, [[data]])))[0]
    assert (record["image"], record["captions"]) == (b"i", ["a", "b"])
    assert record["fields"] == {"image/height": 2}


def test_errors_are_named(prepared, folder, tmp_path):
    command = rf"`coca data prepare shapes --data-dir '{tmp_path}/a b'`"
    with pytest.raises(UserError, match=rf"'shapes' is not prepared in .*; run {command}$"):
        tfds_source("shapes", "train", f"{tmp_path}/a b")
    with pytest.raises(UserError, match=r"'shapes:9.0.0' is not prepared.*prepares shapes:1.1.0"):
        tfds_source("shapes:9.0.0", "train", prepared)
    with pytest.raises(UserError, match=r"'cifar10' is not prepared.*download_and_prepare\(\)$"):
        tfds_source("cifar10", "train", str(tmp_path))
    with pytest.raises(UserError, match=rf"data_dir='{tmp_path}', .*; did you mean emoji\?$"):
        tfds_source("emoij", "train", str(tmp_path))
    with pytest.raises(UserError, match="'no name' cannot be opened"):
        tfds_source("no name", "train", prepared)
    for split in ("trian", "train["):
        with pytest.raises(UserError, match=r"'shapes' has no split 'trian|\[', only \['test', "):
            tfds_source("shapes", split, prepared)
    with pytest.raises(UserError, match=r"split 'train\[:0\]' of data set 'shapes' is empty"):
        tfds_source("shapes", "train[:0]", prepared)
    with pytest.raises(UserError, match="coca data prepare shapes"):
        tokenizer_path("shapes", str(tmp_path))
    text = folder({"text": tfds.features.Text()}, [[{"text": [b"a"]}]])
    with pytest.raises(UserError, match=r"has no feature 'image', only \['text'\]"):
        tfds_source("", "train", path=str(text))


def test_a_folder_that_is_none_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder of a TFDS data set"):
        tfds_source("", "train", path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not a folder of a TFDS data set"):
        tfds_source("", "train", path=str(tmp_path))
    (tmp_path / "dataset_info.json").write_text('{"truncated": ')
    with pytest.raises(UserError, match=r"dataset_info.json is damaged"):
        tfds_source("", "train", path=str(tmp_path))
    path = folder({"image": tfds.features.Image()}, [[{"image": [b"i"]}]])
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"stored as tfrecord, which has no random access"):
        tfds_source("", "train", path=str(path))


def test_images_are_readable_without_tensorflow(prepared):
    record = tfds_source("shapes", "test", prepared)[0]
    assert images.decode(record["image"]).shape == (32, 32, 3)
    assert "tensorflow" not in sys.modules
