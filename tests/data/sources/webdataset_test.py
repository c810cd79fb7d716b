import concurrent.futures
import io
import json
import multiprocessing
import os
import tarfile

import pytest

from coca_jax.data.bad import BadExample
from coca_jax.data.sources import Source, open_source
from coca_jax.data.sources.webdataset import webdataset_source
from coca_jax.errors import UserError
from coca_jax.io import files

IMAGE = b"\xff\xd8 no real picture \xff\xd9"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path, *samples):
    """Writes samples, each a dictionary of extensions and bytes."""
    with tarfile.open(path, "w") as tar:
        for i, sample in enumerate(samples):
            for extension, body in sample.items():
                info = tarfile.TarInfo(f"{i:05}.{extension}")
                info.size, info.mtime = len(body), 1.7e9 + i / 3
                tar.addfile(info, io.BytesIO(body))
    return str(path)


def read_one(path, sample):
    return webdataset_source(write(path, sample))[0]


def test_a_record_has_all_parts_of_a_sample(tmp_path):
    fields = {"caption": "from JSON", "width": 3, "punsafe": 0.5, "exif": None}
    sample = {"jpg": IMAGE, "json": json.dumps(fields).encode(), "txt": "ein Kätzchen\n".encode()}
    assert read_one(tmp_path / "a.tar", sample) == {
        "image": IMAGE,
        "captions": ["ein Kätzchen"],
        "label": -1,
        "labels": [],
        "fields": fields,
    }


@pytest.mark.parametrize(
    "fields, captions",
    [
        ({"caption": "one"}, ["one"]),
        ({"captions": ["one", "two"]}, ["one", "two"]),
        ({"text": "one", "caption": None}, ["one"]),
        ({"caption": 3}, []),
        ({"title": "none"}, []),
    ],
)
def test_captions_are_in_the_json_where_there_is_no_text(tmp_path, fields, captions):
    sample = {"webp": IMAGE, "json": json.dumps(fields).encode()}
    record = read_one(tmp_path / "a.tar", sample)
    assert record["captions"] == captions and record["fields"] == fields


@pytest.mark.parametrize(
    "cls, label, labels",
    [
        (b"1", 1, ["dog"]),
        (b" 0\n", 0, ["cat"]),
        (b"1.0", 1, ["dog"]),
        (b"-1", -1, []),
        (b"zebra\n", -1, ["zebra"]),
        (b"", -1, []),
    ],
)
def test_classes_are_numbers_or_names(tmp_path, cls, label, labels):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    path = write(tmp_path / "a.tar", {"png": IMAGE, "cls": cls})
    names = str(tmp_path / "names.txt")
    source = open_source({"format": "webdataset", "path": path, "class_names": names})
    record = source[0]
    assert (record["label"], record["labels"], record["captions"]) == (label, labels, [])


@pytest.mark.parametrize(
    "damaged, kind",
    [
        ({"txt": b"caf\xe9"}, "bad_text"),
        ({"cls": b"\xff"}, "bad_text"),
        *(({"cls": text}, "bad_record") for text in (b"9" * 30, b"9" * 5000, b"-3", b"0.5")),
        *(({"cls": text}, "bad_record") for text in (b"NaN", b"-inf", b"1e400", b"2147483648")),
        ({"json": b"{"}, "bad_record"),
        ({"json": b'{"caption": "caf\xe9"}'}, "bad_record"),
        ({"json": b"[1]"}, "bad_record"),
        ({"json": b""}, "bad_record"),
        ({"json": b"[" * 100_000}, "bad_record"),
    ],
)
def test_damaged_samples_say_how(tmp_path, damaged, kind):
    with pytest.raises(BadExample) as caught:
        read_one(tmp_path / "a.tar", {"jpg": IMAGE} | damaged)
    assert caught.value.kind == kind


def test_shards_follow_each_other(tmp_path):
    for i, count in enumerate((2, 0, 3)):
        write(
            tmp_path / f"{i}.tar", *[{"jpg": IMAGE, "txt": b"%d %d" % (i, k)} for k in range(count)]
        )
    source = webdataset_source(str(tmp_path / "{0..2}.tar"))
    assert isinstance(source, Source) and len(source) == 5 and source.class_names == []
    assert [record["captions"][0] for record in source] == ["0 0", "0 1", "2 0", "2 1", "2 2"]
    assert [os.path.basename(source.shard(i)) for i in (0, 1, 2, 4)] == ["0.tar"] * 2 + [
        "2.tar"
    ] * 2
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source[index]
        with pytest.raises(IndexError):
            source.shard(index)


def test_samples_without_an_image_are_left_out_and_counted(tmp_path):
    failed = {"json": b'{"status": "failed_to_download"}'}
    path = write(tmp_path / "a.tar", failed, {"jpg": IMAGE}, failed)
    source = webdataset_source(path)
    assert len(source) == 1
    [note] = source.notes
    assert (note.kind, note.count, note.lost) == ("without_image", 2, True)
    write(path, failed)
    with pytest.raises(
        UserError, match=r"no sample of '.*a.tar' has an image .*; 1 samples have no"
    ):
        webdataset_source(path)


def test_torn_tars_are_known(tmp_path):
    path = write(tmp_path / "a.tar", {"jpg": IMAGE}, {"jpg": IMAGE * 200})
    os.truncate(path, 5000)
    source = webdataset_source(path)
    assert len(source) == 1
    [note] = source.notes
    assert (note.kind, note.count, note.lost) == ("cut_off", 1, True) and path in note.text


def test_a_sample_is_one_request(tmp_path, monkeypatch):
    parts = {"json": b"{}", "jpg": IMAGE * 1000, "txt": b"text", "cls": b"5"}
    path = write(tmp_path / "a.tar", parts, {"jpg": IMAGE, "npy": bytes(400_000), "txt": b"far"})
    source = webdataset_source(path)
    asked, plain = [], files.read_range
    monkeypatch.setattr(files, "read_range", lambda *a: asked.append(a[0]) or plain(*a))
    record = source[0]
    assert record["image"] == IMAGE * 1000 and record["captions"] == ["text"]
    assert asked.count(path) == 1
    asked.clear()
    assert source[1]["captions"] == ["far"] and source[1]["image"] == IMAGE
    assert asked.count(path) == 4  # the big thing between them is not read


def test_another_process_reads_the_same(tmp_path):
    samples = [{"jpg": IMAGE + bytes([i]), "txt": b"%d" % i} for i in range(5)]
    source = webdataset_source(write(tmp_path / "a.tar", *samples))
    source.class_names = ["cat"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.__getitem__, range(5)) == list(source)


def test_threads_read_at_once(tmp_path):
    paths = [
        write(tmp_path / f"{i}.tar", *[{"jpg": IMAGE, "txt": b"%d %d" % (i, k)} for k in range(20)])
        for i in range(5)
    ]
    source = webdataset_source(paths)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, list(range(100)) * 3))
    assert [record["captions"] for record in records[200:]] == [
        [f"{i} {k}"] for i in range(5) for k in range(20)
    ]


def test_a_shard_that_is_gone_or_cut_since_raises(tmp_path):
    paths = [write(tmp_path / f"{i}.tar", {"jpg": IMAGE}) for i in range(3)]
    source = webdataset_source(paths)
    os.remove(paths[0])
    os.truncate(paths[1], 600)
    with pytest.raises(FileNotFoundError):
        source[0]
    with pytest.raises(EOFError):
        source[1]
    assert source[2]["image"] == IMAGE


def test_shards_may_be_behind_urls(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for i in range(2):
        path = write(tmp_path / "a.tar", {"jpg": IMAGE, "txt": b"%d" % i})
        with (
            memory.open(f"memory://{tmp_path.name}/{i}.tar", "wb") as file,
            open(path, "rb") as tar,
        ):
            file.write(tar.read())
    source = webdataset_source(f"memory://{tmp_path.name}/*.tar", str(tmp_path / "indices"))
    assert [record["captions"] for record in source] == [["0"], ["1"]]
    assert len(os.listdir(tmp_path / "indices")) == 2
    assert source.shard(1).endswith("/1.tar")


def test_a_folder_of_splits_with_names_of_classes(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "x[1]" / split).mkdir(parents=True)
        for shard in range(2):
            samples = [{"webp": IMAGE, "cls": b"1"}] * count
            write(tmp_path / "x[1]" / split / f"{shard}.tar", *samples)
    (tmp_path / "x[1]/classnames.txt").write_text("cat\nbig dog\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x[1]"), "split": "test"}
    source = open_source(section)
    assert len(source) == 4 and source.class_names == ["cat", "big dog"]
    assert source[3]["label"] == 1 and source[3]["labels"] == ["big dog"]
    assert len(open_source(section | {"split": "train"})) == 6
    with pytest.raises(UserError, match="no file matches"):
        open_source(section | {"split": "val"})


def test_retrieval_data_have_a_caption_in_each_line(tmp_path):
    text = "a cat\nein\u2028Kätzchen \r\n\na\x85pet\n"
    captions = {"jpg": IMAGE, "txt": text.encode()}
    (tmp_path / "x/test").mkdir(parents=True)
    write(tmp_path / "x/test/0.tar", captions)
    (tmp_path / "x/dataset_type.txt").write_text("retrieval\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x"), "split": "test"}
    assert open_source(section)[0]["captions"] == ["a cat", "ein\u2028Kätzchen", "a\x85pet"]
    (tmp_path / "x/dataset_type.txt").write_text("multilabel\n")
    with pytest.raises(UserError, match=r"dataset_type\.txt says 'multilabel'; retrieval and"):
        open_source(section)
    (tmp_path / "x/dataset_type.txt").unlink()
    assert len(open_source(section)[0]["captions"]) == 1


def test_another_number_of_classes_than_the_data_have(tmp_path):
    (tmp_path / "x").mkdir()
    write(tmp_path / "x/0.tar", {"jpg": IMAGE, "cls": b"0"})
    (tmp_path / "x/classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "renamed.txt").write_text("a cat\na dog\n")
    (tmp_path / "short.txt").write_text("cat\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x")}
    renamed = open_source(section | {"class_names": str(tmp_path / "renamed.txt")})
    assert renamed.class_names == ["a cat", "a dog"]
    with pytest.raises(UserError, match=r"short.txt names 1 classes, and the data set has 2: cat"):
        open_source(section | {"class_names": str(tmp_path / "short.txt")})
