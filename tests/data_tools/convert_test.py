import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from pyarrow import parquet as pq

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data_tools import parquet
from coca_jax.data_tools.convert import convert
from coca_jax.errors import UserError
from coca_jax.io.locks import locked

# Calls `convert` on sys.argv[1:], and is killed within the third row group that it reads.
KILLED = """
import os, signal, sys
from coca_jax.data_tools import convert, parquet

read = parquet.examples

def killed(path, groups, columns):
    for i, example in enumerate(read(path, groups, columns)):
        if groups.start == 2 and i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example

parquet.examples = killed
convert.convert(sys.argv[1], sys.argv[2], records_per_shard=1, workers=1)
"""

# Starts a worker that has much to do, and says when.
BUSY = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from coca_jax.data_tools.convert import _start_worker

pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_worker)
pool.submit(os.getpid).result()
pool.submit(time.sleep, 600)
print("busy", flush=True)
time.sleep(600)
"""


def write(path, columns, rows_per_group=8, metadata=None):
    table = pyarrow.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows_per_group)
    return str(path)


def temporaries(folder):
    """The temporary files that `atomic` renames at the end."""
    return [path for path in folder.iterdir() if re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name)]


def simple(first, count):
    numbers = range(first, first + count)
    return {
        "jpg": [b"image %d" % i for i in numbers],
        "caption": [f"Bild {i} größer" for i in numbers],
        "number": list(numbers),
    }


def images(source):
    return [source[i]["image"] for i in range(len(source))]


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.array_record-*")}


def test_every_row_comes_back(tmp_path, capsys):
    columns = {
        "jpg": [b"one", b"two", b"", None, b"five"],
        "TEXT": ["eins", "", None, "vier", "fünf"],
        "captions": [["a", "b"], ["c", None, ""], [], ["d"], None],
        "label": [0, None, 1, 1, 1],
        "score": pyarrow.array([0.5, None, 1.0, 1.0, -2.0], pyarrow.float64()),
        "small": pyarrow.array([1, 2, 3, 4, 5], pyarrow.int8()),
        "hash": pyarrow.array([2**64 - 1, 2, 3, 4, 5], pyarrow.uint64()),
        "good": [True, False, None, True, None],
        "kind": pyarrow.array(["x", "y", "x", "y", "x"]).dictionary_encode(),
        "tags": [["s", "t"], [], ["u"], ["v"], None],
        "boxes": pyarrow.array(
            [[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], pyarrow.list_(pyarrow.int32(), 2)
        ),
        "exif": [{"a": 1}] * 5,
    }
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    path = write(tmp_path / "a.parquet", columns, metadata={"huggingface": json.dumps(names)})
    out = convert(path, str(tmp_path / "out"), workers=1)
    source = tfds_source("", "train", path=str(out))
    assert source.class_names == ["cat", "dog"]
    assert [source[i] for i in range(len(source))] == [
        {
            "image": b"one",
            "captions": ["eins", "a", "b"],
            "label": 0,
            "labels": ["cat"],
            "fields": {
                "score": 0.5,
                "small": 1,
                "hash": "18446744073709551615",
                "good": 1,
                "kind": "x",
                "tags": ["s", "t"],
                "boxes": [1, 2],
            },
        },
        {
            "image": b"two",
            "captions": ["c", ""],
            "label": -1,
            "labels": [],
            "fields": {
                "small": 2,
                "hash": "2",
                "good": 0,
                "kind": "y",
                "tags": [],
                "boxes": [3, 4],
            },
        },
        {
            "image": b"five",
            "captions": ["fünf"],
            "label": 1,
            "labels": ["dog"],
            "fields": {
                "score": -2.0,
                "small": 5,
                "hash": "5",
                "kind": "x",
                "tags": [],
                "boxes": [9, 9],
            },
        },
    ]
    said = capsys.readouterr().out
    assert "3 records in 1 shard " in said and "2 rows without an image" in said
    assert "(numbers of 2**63 or more): hash" in said
    assert "captions: TEXT, captions" in said and "types): exif" in said
    assert f"--config.data.train.path={out}\n" in said


def test_images_of_hugging_face_and_tfds_reads_them_too(tmp_path, prepared):
    originals = images(tfds_source("shapes", "test", prepared))
    columns = {
        "image": [{"bytes": image, "path": "a.png"} for image in originals] + [None],
        "labels": [[i % 2, 1] for i in range(len(originals))] + [None],
        "text": [f"{i}" for i in range(len(originals))] + [""],
        "alt": ["other"] * (len(originals) + 1),
        "score": [0.5, *[None] * len(originals)],
    }
    labels = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"labels": labels}}})}
    path = write(tmp_path / "a.parquet", columns, metadata=metadata)
    out = convert(path, str(tmp_path / "out"), captions=["alt"], split="validation", workers=1)
    source = tfds_source("", "validation", path=str(out))
    assert images(source) == originals
    assert source[2]["captions"] == ["other"] and source[2]["fields"] == {"text": "2"}
    assert source[3]["labels"] == ["dog", "dog"]
    theirs = tfds.builder_from_directory(out).as_data_source("validation")
    assert theirs[2]["image"].shape == (32, 32, 3) and list(theirs[2]["labels"]) == [0, 1]
    assert theirs[0]["score"] == 0.5 and theirs[2]["score"] is None


def test_texts_that_are_no_utf8_are_left_to_the_reader(tmp_path):
    texts = pyarrow.array([b"caf\xe9", b"good"]).view(pyarrow.string())
    path = write(tmp_path / "a.parquet", {"image": [b"a", b"b"], "text": texts})
    source = tfds_source("", "train", path=str(convert(path, str(tmp_path / "out"), workers=1)))
    assert source[1]["captions"] == ["good"]
    with pytest.raises(Exception, match="bad_text"):
        source[0]


def test_processes_and_shards_of_many_files(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.parquet", simple(100 * i, 20))
    write(tmp_path / "3.parquet", simple(0, 0))
    pattern, wanted = (
        f"{tmp_path}/{{0..3}}.parquet",
        [b"image %d" % i for first in (0, 100, 200) for i in range(first, first + 20)],
    )
    for size, count in ((1, 9), (9, 6), (16, 6), (1000, 3)):
        out = convert(pattern, f"{tmp_path}/{size}", records_per_shard=size, workers=1)
        assert len(shards_of(out)) == count
        assert images(tfds_source("", "train", path=str(out))) == wanted
    parallel = convert(pattern, f"{tmp_path}/parallel", records_per_shard=9, workers=2)
    assert shards_of(parallel) == shards_of(tmp_path / "9")


def test_a_killed_conversion_goes_on_where_it_was(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", simple(0, 40))
    whole = convert(path, f"{tmp_path}/whole", records_per_shard=1, workers=1)
    killed = subprocess.run([sys.executable, "-c", KILLED, path, f"{tmp_path}/killed"])
    assert killed.returncode == -signal.SIGKILL
    partial = tmp_path / "killed"
    assert len(temporaries(partial)) == 1
    assert sorted(shards_of(partial).items())[:2] == sorted(shards_of(whole).items())[:2]
    with pytest.raises(UserError, match="not a folder of a TFDS data set"):
        tfds_source("", "train", path=str(partial))
    read, groups = parquet.examples, []

    def counted(path, part, columns):
        groups.append(part.start)
        return read(path, part, columns)

    monkeypatch.setattr(parquet, "examples", counted)
    assert convert(path, str(partial), records_per_shard=1, workers=1) == partial
    assert groups == [2, 3, 4]
    assert {p.name for p in partial.iterdir()} == {p.name for p in whole.iterdir()}
    assert shards_of(partial) == shards_of(whole)
    assert images(tfds_source("", "train", path=str(partial))) == simple(0, 40)["jpg"]


def test_workers_end_with_the_conversion():
    parent = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"busy\n"
    parent.kill()
    assert parent.communicate(timeout=30) == (b"", None)  # nobody has the other end any more


def test_a_shard_that_is_torn_is_written_again(tmp_path):
    path = write(tmp_path / "a.parquet", simple(0, 40))
    out = convert(path, f"{tmp_path}/out", records_per_shard=1, workers=1)
    whole = shards_of(out)
    truncated = out / sorted(whole)[1]
    truncated.write_bytes(whole[truncated.name][:1000])
    convert(path, str(out), records_per_shard=1, workers=1)
    assert shards_of(out) == whole


def test_other_inputs_or_options_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", simple(0, 20))
    other = write(tmp_path / "b.parquet", simple(0, 20))
    out = f"{tmp_path}/out"
    convert(path, out, workers=1)
    before = shards_of(tmp_path / "out")
    convert(path, out, workers=1)
    with pytest.raises(UserError, match=r"records_per_shard was 10000 and is 9"):
        convert(path, out, records_per_shard=9, workers=1)
    with pytest.raises(UserError, match=r"b\.parquet was absent and is \[\d+"):
        convert([path, other], out, workers=1)
    write(tmp_path / "a.parquet", simple(0, 21))
    with pytest.raises(
        UserError,
        match=r"out was made from other inputs or options: .*a\.parquet was \[\d+.* give an",
    ):
        convert(path, out, workers=1)
    assert shards_of(tmp_path / "out") == before
    (tmp_path / "out/conversion.json").write_text("{")
    with pytest.raises(UserError, match=r"conversion\.json is damaged"):
        convert(path, out, workers=1)
    with pytest.raises(UserError, match="holds something else"):
        convert(path, str(tmp_path), workers=1)


def test_a_conversion_at_the_same_time_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", {"jpg": [b"1"]})
    out = convert(path, str(tmp_path / "out"))
    with locked(out, "written"), pytest.raises(UserError, match="out is being written by process"):
        convert(path, str(out))
    convert(path, str(out))


def test_urls(tmp_path):
    url = f"memory://{uuid.uuid4()}"
    for i in range(2):
        with fsspec.open(f"{url}/{i}.parquet", "wb") as file:
            pq.write_table(pyarrow.table(simple(8 * i, 8)), file)
    out = convert(f"{url}/*.parquet", str(tmp_path / "out"), workers=1)
    assert images(tfds_source("", "train", path=str(out))) == simple(0, 16)["jpg"]


def test_errors_are_named(tmp_path):
    out = f"{tmp_path}/out"
    path = write(tmp_path / "a.parquet", simple(0, 4))
    two = write(tmp_path / "two.parquet", {**simple(0, 4), "png": [b""] * 4})
    none = write(tmp_path / "none.parquet", {"url": ["http://a"], "n": [1]})
    empty = write(tmp_path / "empty.parquet", {"jpg": [None, b""], "caption": ["a", "b"]})
    (tmp_path / "page.parquet").write_text("<html>" * 1000)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    for arguments, options, message in (
        (path, {"image": "caption"}, r"image='caption' is not a column of bytes; those are jpg"),
        (path, {"captions": ["number"]}, r"captions=number is not a column of texts; .* caption$"),
        (path, {"split": "a b"}, r"split='a b' should be a word"),
        (path, {"records_per_shard": 0}, r"records_per_shard=0 should be positive"),
        (two, {}, r"jpg, png of the columns jpg, caption, number, png hold bytes; give"),
        (none, {}, r"none of the columns url, n hold bytes"),
        (write(tmp_path / "no_rows.parquet", simple(0, 0)), {}, r"no_rows\.parquet hold no rows"),
        (
            [path, none],
            {"image": "jpg"},
            r"none\.parquet: image='jpg' is not a column of bytes; those are none",
        ),
        (
            [path, empty],
            {},
            r"empty\.parquet has other columns than .*a\.parquet: number is absent, there int64",
        ),
        (f"{tmp_path}/page.parquet", {}, r"page\.parquet cannot be read as a Parquet file"),
        (
            f"{tmp_path}/truncated.parquet",
            {},
            r"truncated\.parquet cannot be read as a Parquet file",
        ),
        (f"{tmp_path}/nowhere.parquet", {}, r"nowhere\.parquet cannot be read"),
        (empty, {}, r"no row of .*empty\.parquet has an image in column 'jpg'"),
    ):
        shutil.rmtree(out, ignore_errors=True)
        with pytest.raises(UserError, match=message):
            convert(arguments, out, workers=1, **options)
    with pytest.raises(UserError, match="should be a local folder"):
        convert(path, "memory://out", workers=1)


def test_a_damaged_row_group_is_named_and_the_others_are_kept(tmp_path):
    data = np.random.default_rng(0).bytes
    originals = {"image": [data(2000) for _ in range(24)]}
    path = write(tmp_path / "a.parquet", originals)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[start : start + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(content)
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"a\.parquet, row groups 1 to 1, cannot be read"):
            convert(path, f"{tmp_path}/{workers}", records_per_shard=8, workers=workers)
        assert any("-00000-of" in name for name in shards_of(tmp_path / f"{workers}"))
        assert not temporaries(tmp_path / f"{workers}")


def test_images_in_files_next_to_the_parquet_file(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"a")
    rows = [
        {"bytes": None, "path": "photos/a.jpg"},
        {"bytes": None, "path": "photos/gone.jpg"},
        {"bytes": b"inside", "path": "photos/a.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    # Where no row has bytes, their column has no type.
    typed = write(tmp_path / "a.parquet", {"image": rows, "text": ["x"] * 5})
    url = {"bytes": None, "path": (tmp_path / "photos/a.jpg").as_uri()}
    untyped = write(tmp_path / "b.parquet", {"image": [url, rows[1]], "text": ["x"] * 2})
    out = convert([typed, untyped], str(tmp_path / "out"), workers=1)
    assert images(tfds_source("", "train", path=str(out))) == [b"a", b"inside", b"a"]
    said = capsys.readouterr().out
    assert "4 rows without an image" in said
    assert (
        "for 2 of them the named file is missing or cannot be read, such as 'photos/gone.jpg'"
        in said
    )
    absent = write(tmp_path / "c.parquet", {"image": rows[1:2]})
    with pytest.raises(UserError, match=r"has an image .*; for 1 of them the named file"):
        convert(absent, str(tmp_path / "none"), workers=1)


def test_columns_without_a_value_in_one_file_have_the_type_of_the_others(tmp_path):
    null = pyarrow.nulls(2)
    first = {"jpg": [b"a", b"b"], "caption": null, "tags": null, "n": null, "error": null}
    second = {"jpg": [b"c"], "caption": ["x"], "tags": [["y"]], "n": [5], "error": pyarrow.nulls(1)}
    paths = [write(tmp_path / f"{i}.parquet", rows) for i, rows in enumerate((first, second))]
    source = tfds_source("", "train", path=str(convert(paths, str(tmp_path / "out"), workers=1)))
    assert [record["captions"] for record in map(source.__getitem__, range(3))] == [[], [], ["x"]]
    assert source[2]["fields"] == {"tags": "y", "n": 5}
    assert source[0]["fields"] == {"tags": []}


def test_a_folder_of_files(tmp_path):
    (tmp_path / "data").mkdir()
    for i in (1, 0):
        write(tmp_path / f"data/{i}.parquet", simple(i, 1))
    for name in ("._0.parquet", "readme.md"):
        (tmp_path / "data" / name).write_text("x")
    out = convert(str(tmp_path / "data"), str(tmp_path / "out"), workers=1)
    assert images(tfds_source("", "train", path=str(out))) == [b"image 0", b"image 1"]
    with pytest.raises(UserError, match=r"out holds no \.parquet files"):
        convert(str(out), str(tmp_path / "again"))


def test_the_split_of_a_folder_is_converted(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for i, split in enumerate(("train", "test")):
        write(tmp_path / f"data/{split}-00000-of-00001.parquet", simple(i, 1))
    out = convert(str(tmp_path), str(tmp_path / "out"), split="test", workers=1)
    assert images(tfds_source("", "test", path=str(out))) == [b"image 1"]
    assert "the files with 'test' in their names are read" in capsys.readouterr().out


@pytest.mark.parametrize("codec", ["snappy", "zstd", "brotli", "gzip", "lz4", "none"])
def test_codecs(tmp_path, codec):
    table = pyarrow.table({"jpg": pyarrow.array([b"a"], pyarrow.large_binary()), "text": ["x"]})
    pq.write_table(table, tmp_path / "a.parquet", compression=codec)
    out = convert(f"{tmp_path}/a.parquet", str(tmp_path / "out"), workers=1)
    assert images(tfds_source("", "train", path=str(out))) == [b"a"]


def test_a_full_disk_is_named_and_what_is_written_is_kept(tmp_path):
    rows = {"jpg": [b"x" * 1000, b"y" * 1_000_000], "caption": ["a", "b"]}
    path, out = write(tmp_path / "a.parquet", rows, rows_per_group=1), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"out is full: .*writing .*00001-of-.*MiB more are needed"
        ):
            convert(path, str(out), records_per_shard=1, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(file.name for file in out.iterdir()) == [
        ".lock",
        "conversion.json",
        "converted-train.array_record-00000-of-00002",
    ]
    convert(path, str(out), records_per_shard=1, workers=1)
    assert images(tfds_source("", "train", path=str(out))) == rows["jpg"]
