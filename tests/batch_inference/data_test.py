import pytest
from memory_source import MemorySource

from coca_jax.batch_inference import data
from coca_jax.data.sources import Shard
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
        ("{}/classes", "folder"),
        ("{}/tfds", "tfds"),
        ("tfds:shapes", "tfds"),
    ],
)
def test_the_format_is_seen_from_the_path(tmp_path, path, data_format):
    for name in (
        *("tars/0.tar", "splits/train/0.tar", "parquet/0.parquet", "classes/cat/0.jpg"),
        *("tfds/dataset_info.json", "tfds/0.tar"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    options = data.data_options(path.format(tmp_path), split="s", image_keys=["png"])
    assert (options.format, options.split, options.image_keys) == (data_format, "s", ("png",))
    assert data.data_options(f"{tmp_path}/classes", "webdataset").format == "webdataset"


def test_a_path_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        data.data_options(f"{tmp_path}/nothing")
    (tmp_path / "file.bin").touch()
    with pytest.raises(UserError, match=r"file.bin.* cannot be seen .*--data-format, one of tfds"):
        data.data_options(f"{tmp_path}/file.bin")


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
