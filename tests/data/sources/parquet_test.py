import concurrent.futures
import errno
import itertools
import json

import pyarrow
import pytest
from pyarrow import parquet as pq

from coca_jax.data.errors import BadExample
from coca_jax.data.from_config import open_sources
from coca_jax.data.options import DataConfig, TrainDataConfig
from coca_jax.data.sources import Context, Source, SourceConfig, open_source, parquet
from coca_jax.errors import UserError


def write(path, first, count, **columns):
    rows = range(first, first + count)
    table = pyarrow.table(
        {
            "jpg": pyarrow.array([b"\xff%d" % i if i != 3 else None for i in rows], "binary"),
            "caption": [f"caption {i}" for i in rows],
            "score": pyarrow.array([i / 2 for i in rows], "float64"),
            "label": pyarrow.array([i % 2 for i in rows], "int64"),
            **columns,
        }
    )
    names = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, path, row_group_size=2)
    return str(path)


def test_rows_are_records_and_files_are_shards(tmp_path):
    write(tmp_path / "0.parquet", 0, 5)
    write(tmp_path / "1.parquet", 5, 2)
    source = open_source(SourceConfig(format="parquet", path=str(tmp_path)))
    assert isinstance(source, Source) and len(source) == 7
    assert source[4] == {
        "image": b"\xff4",
        "captions": ["caption 4"],
        "label": 0,
        "labels": ["cat"],
        "fields": {"score": 2.0},
    }
    assert [source[i]["captions"] for i in (6, 0, 5)] == [
        ["caption 6"],
        ["caption 0"],
        ["caption 5"],
    ]
    with pytest.raises(BadExample, match="no image"):
        source[3]
    assert [(shard.name, shard.records) for shard in source.shards()] == [
        ("0.parquet", 5),
        ("1.parquet", 2),
    ]
    assert source.shard(4).endswith("0.parquet") and source.shard(5).endswith("1.parquet")


def test_a_split_of_a_folder_of_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    for i, split in enumerate(("test", "train")):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", i, 1)
    source = open_source(SourceConfig(format="parquet", path=str(tmp_path), split="train"))
    assert [record["captions"] for record in source] == [["caption 1"]]
    assert [note.kind for note in source.notes] == ["split"]


def test_fields_keep_their_types_and_nulls(tmp_path):
    table = pyarrow.table(
        {
            "jpg": pyarrow.array([b"1", b"2"]),
            "url": pyarrow.array(["a", None]),
            "n": pyarrow.array([None, 3]),
            "tags": pyarrow.array([["x"], []], pyarrow.list_(pyarrow.string())),
            "time": pyarrow.array([0, 1], pyarrow.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source(SourceConfig(format="parquet", path=str(tmp_path / "a.parquet")))
    assert source[0]["fields"] == {"url": "a", "n": None, "tags": ["x"]}
    assert source[1]["fields"] == {"url": None, "n": 3, "tags": []}
    (note,) = source.notes
    assert (note.kind, note.count) == ("left_out", 1) and "time" in note.text


@pytest.mark.parametrize(
    ("name", "values", "labels"),
    [
        ("label", ["ü", None], (["ü"], [])),
        ("label", pyarrow.array(["ü", "b"]).dictionary_encode(), (["ü"], ["b"])),
        ("labels", [["a", "ü"], []], (["a", "ü"], [])),
    ],
    ids=["texts", "dictionary", "lists"],
)
def test_labels_may_be_texts(tmp_path, name, values, labels):
    pq.write_table(pyarrow.table({"jpg": [b"1", b"2"], name: values}), tmp_path / "a.parquet")
    source = open_source(SourceConfig(format="parquet", path=str(tmp_path / "a.parquet")))
    assert tuple(record["labels"] for record in source) == labels


@pytest.mark.parametrize(
    ("rows", "touched"),
    [
        ([5], 1),
        ([1000, 1000, 1000, 1], 2),
        ([1000, 510, 1, 1000], 3),
        ([1000, 511, 1, 1000], 3),
        ([1000, 509, 1, 1000], 4),
        ([1] * 600, parquet.AHEAD),
        ([300, 1, 0, 300], 4),
    ],
)
def test_row_groups_in_memory_are_those_of_the_rows_read_ahead(rows, touched):
    ends = list(itertools.accumulate(rows))
    assert parquet._most_touched(ends) == touched
    group_of = [group for group, count in enumerate(rows) for _ in range(count)]
    windows = (group_of[i : i + parquet.AHEAD] for i in range(len(group_of)))
    assert max(window[-1] - window[0] + 1 for window in windows) == touched


def test_a_damaged_row_group_is_read_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 10, 6)
    source = open_source(SourceConfig(format="parquet", path=path))
    reads = []

    def damaged(*args, **options):
        reads.append(1)
        raise pyarrow.ArrowInvalid("no page")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", damaged)
    for index in range(6):
        with pytest.raises(BadExample, match=r"row group \d: no page"):
            source[index]
    assert len(reads) == 3


def test_a_row_group_that_is_damaged_on_the_disk_is_bad_alone(tmp_path):
    path = write(tmp_path / "a.parquet", 10, 6)
    begin = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[begin : begin + 20] = b"\xff" * 20
    (tmp_path / "a.parquet").write_bytes(content)
    source = open_source(SourceConfig(format="parquet", path=path))
    for index in (2, 3):
        with pytest.raises(BadExample, match="row group 1"):
            source[index]
    assert [source[index]["captions"] for index in (0, 4)] == [["caption 10"], ["caption 14"]]


@pytest.mark.parametrize("number", [(), (errno.EIO,)], ids=["damaged", "outage"])
def test_an_outage_is_no_damaged_row_group(tmp_path, monkeypatch, number):
    path = write(tmp_path / "a.parquet", 10, 4)
    source = open_source(SourceConfig(format="parquet", path=path))

    def fail(*args, **options):
        raise OSError(*number, "no answer")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(OSError if number else BadExample, match="no answer"):
        source[0]
    monkeypatch.setattr(parquet.paths, "is_url", lambda path: True)
    with pytest.raises(OSError, match="no answer"):
        source[2]


def test_each_row_group_is_read_once_by_many_threads(tmp_path, monkeypatch):
    source = parquet.open_parquet(
        SourceConfig(format="parquet", path=write(tmp_path / "a.parquet", 10, 40)), Context()
    )
    read, groups = parquet.images_of, []
    monkeypatch.setattr(parquet, "images_of", lambda *a: groups.append(1) or read(*a))
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        captions = list(threads.map(lambda i: source[i]["captions"][0], range(40)))
    assert captions == [f"caption {i}" for i in range(10, 50)]
    assert len(groups) == 20


def test_files_of_other_columns_or_damaged_ones_are_refused(tmp_path):
    write(tmp_path / "0.parquet", 0, 2)
    write(tmp_path / "1.parquet", 0, 2, more=["a", "b"])
    with pytest.raises(UserError, match=r"1.parquet has other columns than .*0.parquet: more is"):
        open_source(SourceConfig(format="parquet", path=str(tmp_path)))
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1.parquet cannot be read as a Parquet file"):
        open_source(SourceConfig(format="parquet", path=str(tmp_path)))


def test_columns_without_a_value_in_one_file_have_the_type_of_the_others(tmp_path):
    null, lists = pyarrow.nulls(2), pyarrow.array([[], None], pyarrow.list_(pyarrow.null()))
    write(tmp_path / "0.parquet", 5, 2, caption=null, score=null, tags=lists)
    write(tmp_path / "1.parquet", 7, 1, tags=[["x"]])
    pq.write_table(pyarrow.table({"other": pyarrow.nulls(0)}), tmp_path / "2.parquet")
    source = open_source(SourceConfig(format="parquet", path=str(tmp_path)))
    assert [source[i]["captions"] for i in range(3)] == [[], [], ["caption 7"]]
    assert source[1]["fields"] == {"score": None, "tags": []}
    assert source[2]["fields"] == {"score": 3.5, "tags": ["x"]}


def test_training_refuses_what_is_read_in_order(tmp_path):
    path = write(tmp_path / "0.parquet", 0, 2)
    data = DataConfig(train=TrainDataConfig(format="parquet", path=path))
    with pytest.raises(UserError, match=r"data.train: format='parquet' .*coca data convert"):
        open_sources(data)
