import re

import broken_data
import pyarrow
import pytest
from memory_source import MemorySource
from pyarrow import parquet as pq
from tf_examples import example, write_array_record

from coca_jax.batch_inference import data
from coca_jax.data.sources import Shard, Source
from coca_jax.errors import UserError


@pytest.mark.parametrize(
    "path, data_format",
    [
        ("{}/a.tar", "webdataset"),
        ("gs://bucket/{{00000..00099}}.tar", "webdataset"),
        ("https://host/a.TAR?token=1", "webdataset"),
        ("{}/b.jsonl", "folder"),
        ("s3://bucket/*.parquet", "parquet"),
        ("{}/x.array_record-00000-of-00001", "array_record"),
        ("{}/tars", "webdataset"),
        ("{}/splits", "webdataset"),
        ("{}/parquet", "parquet"),
        ("{}/hub", "parquet"),
        ("{}/classes", "folder"),
        ("{}/photos", "images"),
        ("{}/records", "array_record"),
        ("{}/x?.tar", "webdataset"),
        ("{}/tfds", "tfds"),
        ("tfds:shapes", "tfds"),
    ],
)
def test_the_format_is_seen_from_the_path(tmp_path, path, data_format):
    for name in (
        *("tars/0.tar", "splits/train/0.tar", "parquet/0.parquet", "classes/cat/0.jpg"),
        *("tfds/dataset_info.json", "tfds/0.tar", "photos/a.JPG", "photos/deep/b.png"),
        *("records/a.array_record-00000-of-00001", "hub/data/train-0.parquet", "hub/README.md"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert data.data_options(path.format(tmp_path)).format == data_format
    assert data.data_options(f"{tmp_path}/classes", "webdataset").format == "webdataset"


@pytest.mark.parametrize(
    "path, data_format, has_splits",
    [
        ("tfds:shapes", "", True),
        ("gs://bucket/shapes", "tfds", True),
        ("{}/tars", "", True),
        ("{}/classes", "", True),
        ("{}/tars/0.tar", "", False),
        ("{}/tars/*.tar", "", False),
        ("gs://bucket/{{0..9}}.parquet", "", False),
        ("{}/table", "", False),
        ("{}/table/a.csv", "", False),
        ("{}/photos", "", False),
        ("{}/tars", "images", False),
    ],
)
def test_a_split_is_for_what_may_have_some(tmp_path, path, data_format, has_splits):
    for name in ("tars/0.tar", "classes/test/cat/0.jpg", "table/a.csv", "photos/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = path.format(tmp_path)
    if has_splits:
        assert data.data_options(path, data_format, "test").split == "test"
        return
    assert data.data_options(path, data_format).split == ""
    with pytest.raises(UserError, match=r"--split test: --data .* has no splits"):
        data.data_options(path, data_format, "test")


def test_a_path_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        data.data_options(f"{tmp_path}/nothing")
    (tmp_path / "file.bin").touch()
    with pytest.raises(UserError, match=r"file.bin.* cannot be seen .*--data-format, one of tfds"):
        data.data_options(f"{tmp_path}/file.bin")


def test_keys_are_for_formats_that_have_them(tmp_path):
    options = data.data_options("x.parquet", image_keys=["png"], text_keys=["a", "b"])
    assert (options.image_keys, options.text_keys) == (("png",), ("a", "b"))
    with pytest.raises(UserError, match="are for webdataset and parquet, not for folder"):
        data.data_options("x.csv", text_keys=["alt"])
    with pytest.raises(UserError, match="--data-format folder: --data tfds:shapes is in the"):
        data.data_options("tfds:shapes", "folder")
    with pytest.raises(UserError, match=r"--data-format wds should be one of .*webdataset"):
        data.data_options("x.tar", "wds")


def test_a_process_opens_its_own_files_only(tmp_path):
    for name in ("a/0.tar", "b/0.tar", "b/1.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        broken_data.write_tar(tmp_path / name, [{"jpg": b"i"}] * (2 + int(name[2])))
    options = data.data_options(f"{tmp_path}/*/*.tar")
    shares = []
    for index in range(2):
        mine, names = data.take_share(options, index, 2)
        shares.append((list(mine.path), data.split(data.open_data(mine), 2, names)))
    assert [paths for paths, _ in shares] == [
        [f"{tmp_path}/a/0.tar", f"{tmp_path}/b/1.tar"],
        [f"{tmp_path}/b/0.tar"],
    ]
    whole = data.split(data.open_data(options), 2)
    parts = sorted([p for _, share in shares for p in share], key=lambda part: part.name)
    assert [p._replace(start=0) for p in parts] == [p._replace(start=0) for p in whole]
    for few in (data.take_share(options, 0, 4), data.take_share(options, 0, 1)):
        assert few == (options, [])


@pytest.mark.parametrize("kind", ["tar", "parquet", "array_record"])
def test_a_share_may_have_no_records(tmp_path, kind):
    for number, count in enumerate((0, 2, 0)):
        path = tmp_path / f"{number}.{kind}"
        if kind == "tar":
            broken_data.write_tar(path, [{"jpg": b"i"}] * count)
        elif kind == "parquet":
            images = pyarrow.array([b"i"] * count, pyarrow.binary())
            pq.write_table(pyarrow.table({"image": images}), path)
        else:
            write_array_record(path, [example({"image": [b"i"]})] * count)
    options = data.data_options(f"{tmp_path}/*.{kind}")
    shares = [[p.count for p in data.open_share(options, i, 2, 10)[1]] for i in range(2)]
    assert shares == [[], [2]]
    (tmp_path / f"1.{kind}").unlink()
    whole = rf"{re.escape(str(tmp_path))}/(\*\.{kind}|0\.{kind}, .*/2\.{kind})"
    with pytest.raises(UserError, match=whole):  # not this share alone
        data.open_share(options, 0, 2, 10)


def test_a_process_opens_its_own_array_records_only(tmp_path):
    for number in range(3):
        records = [example({"image": [b"%d" % number], "caption": [b"a"]})]
        write_array_record(tmp_path / f"{number}.array_record", records)
    options = data.data_options(f"{tmp_path}/*.array_record")
    mine, names = data.take_share(options, 1, 2)
    source = data.open_data(mine)
    assert (len(source), source[0]["image"], names) == (1, b"1", ["1.array_record"])


def test_a_folder_of_images_is_a_data_set(tmp_path):
    (tmp_path / "link.png").symlink_to("nowhere")
    for name in ("b.png", "deep/a.jpg", "deep/notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = data.open_data(data.data_options(str(tmp_path)))
    assert isinstance(source, Source) and len(source) == 2
    assert [(source[i]["key"], source[i]["image"]) for i in range(2)] == [
        ("b.png", b"b.png"),
        ("deep/a.jpg", b"deep/a.jpg"),
    ]
    (shard,) = source.shards()
    assert (shard.name, shard.size, shard.records) == (tmp_path.name, 15, 2)
    assert [note.kind for note in source.notes] == ["unreadable", "hidden"]
    assert "1 item cannot be read, such as link.png" in source.notes[0].text
    (tmp_path / "b.png").write_bytes(b"longer")
    assert data.open_data(data.data_options(str(tmp_path))).shards()[0].checksum != shard.checksum


class Shards(MemorySource):
    def __init__(self, *shards):
        super().__init__([{}] * sum(count for _, count in shards))
        self._shards = [Shard(name, 1, count, "") for name, count in shards]

    def shards(self):
        return self._shards


def test_a_shard_is_a_part_and_a_large_one_several():
    source = Shards(("a.tar", 3), ("empty.tar", 0), ("x/é b.tar", 5), ("A.tar", 2))
    parts = [(p.name, p.start, p.count, p.first) for p in data.split(source, 3)]
    assert parts == [
        ("a", 0, 3, 0),
        ("x_é_b-00000-of-00002", 3, 2, 0),
        ("x_é_b-00001-of-00002", 5, 3, 2),
        ("A-2", 8, 2, 0),  # some file systems ignore case
    ]


def test_shards_that_do_not_add_up_are_an_error():
    source = Shards(("a", 2))
    source._shards = [Shard("a", 1, 1, "")]
    with pytest.raises(UserError, match="has 2 records, and its shards have 1"):
        data.split(source, 10)
