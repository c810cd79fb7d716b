"""Fingerprints of every kind of source: what changes them, and what does not."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from memory_source import MemorySource
from tf_examples import example, write_array_record

from coca_jax.data.examples import DataSet
from coca_jax.data.fingerprint import changes, digest, fingerprint, parse
from coca_jax.data.options import DataConfig, MixtureConfig
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data.sources.base import Shard
from coca_jax.fields import Sections

DATA = DataConfig()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def of(form, path, left_out=(), **options):
    section = {"format": form, "path": str(path), **options}
    return fingerprint(DATA, [DataSet(open_source(SourceConfig.of(section)), None, None, left_out)])


def write_tar(path, numbers, image=b"an image", time=0):
    with tarfile.open(path, "w") as tar:
        for i in numbers:
            for name, body in ((f"{i:03}.jpg", image), (f"{i:03}.txt", b"caption %03d" % i)):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(body), time
                tar.addfile(info, io.BytesIO(body))


def write_tars(folder):
    folder.mkdir()
    for i in range(4):
        write_tar(folder / f"{i}.tar", range(5 * i, 5 * i + 5))


def write_table(folder, rows=(("a.jpg", "one"), ("b.jpg", "two"), ("c.jpg", "six"))):
    folder.mkdir(exist_ok=True)
    (folder / "t.csv").write_text("".join(f"{a},{b}\n" for a, b in (("image", "caption"), *rows)))


def write_classes(folder):
    for label in ("cat", "dog"):
        (folder / label / "clip").mkdir(parents=True)
        for name in ("a.jpg", "b.jpg", "clip/1.jpg"):
            (folder / label / name).write_bytes(b"image")


def write_records(folder):
    folder.mkdir()
    for i in range(2):
        examples = [example({"image": [b"image %d" % (10 * i + j)]}) for j in range(5)]
        write_array_record(folder / f"{i}.array_record", examples)


MAKE = {
    "webdataset": (write_tars, "*.tar"),
    "folder": (write_table, "t.csv"),
    "classes": (write_classes, ""),
    "array_record": (write_records, "*.array_record"),
}


@pytest.mark.parametrize("form", MAKE)
def test_data_that_are_copied_and_touched_are_the_same(tmp_path, form):
    write, pattern = MAKE[form]
    kind = "folder" if form == "classes" else form
    write(tmp_path / "here")
    first = of(kind, tmp_path / "here" / pattern)
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere/there")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))
    second = of(kind, tmp_path / "elsewhere/there" / pattern)
    assert changes(first, second) == [] and digest(first) == digest(second)
    assert parse(json.loads(json.dumps(first))) == first


def replace(folder):
    write_tar(folder / "2.tar", range(10, 15), b"other im")


def reverse(folder):
    write_tar(folder / "2.tar", reversed(range(10, 15)))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: (d / "1.tar").unlink(), "removed: 1.tar"),
        (lambda d: write_tar(d / "9.tar", [9]), "added: 9.tar"),
        (lambda d: write_tar(d / "2.tar", range(10, 14)), "2.tar (5 records then, 4 now)"),
        (replace, "changed: 2.tar (other content of the same size)"),
        (reverse, "changed: 2.tar (other content of the same size)"),
        (
            lambda d: (d / "0.tar").rename(d / "7.tar"),
            "in another order: 1.tar, 2.tar, 3.tar and 1",
        ),
        (lambda d: [(d / f"{i}.tar").rename(d / f"x{i}.tar") for i in range(4)], None),
    ],
)
def test_changes_of_tars_are_named(tmp_path, change, said):
    write_tars(tmp_path / "d")
    before = of("webdataset", tmp_path / "d/*.tar")
    change(tmp_path / "d")
    found = changes(before, of("webdataset", tmp_path / "d/*.tar"))
    assert (said in found[0]) if said else (found == [])


@pytest.mark.parametrize(
    "rows, said",
    [
        ((("a.jpg", "one"), ("c.jpg", "six")), "3 records then, 2 now"),
        ((("b.jpg", "two"), ("a.jpg", "one"), ("c.jpg", "six")), "other content"),
        ((("a.jpg", "one"), ("b.jpg", "ten"), ("c.jpg", "six")), "other content"),
        ((("a.jpg", "one"), ("b.jpg", "three"), ("c.jpg", "six")), "bytes then"),
    ],
)
def test_changes_of_a_table_are_named(tmp_path, rows, said):
    write_table(tmp_path / "d")
    before = of("folder", tmp_path / "d/t.csv")
    write_table(tmp_path / "d", rows)
    [line] = changes(before, of("folder", tmp_path / "d/t.csv"))
    assert line.startswith("config.data.train: changed: t.csv") and said in line


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: (d / "dog/b.jpg").unlink(), "dog (3 records then, 2 now)"),
        (lambda d: (d / "dog/b.jpg").write_bytes(b"longer than it was"), "dog (1"),
        (lambda d: (d / "dog/b.jpg").rename(d / "dog/x.jpg"), "dog (other content"),
        (lambda d: (d / "cat/clip/2.jpg").write_bytes(b"image"), "changed: cat"),
        (lambda d: shutil.rmtree(d / "cat"), "removed: cat"),
        (lambda d: (d / "cat").rename(d / "zebra"), "added: zebra"),
    ],
)
def test_changes_of_folders_of_classes_are_named(tmp_path, change, said):
    write_classes(tmp_path / "d")
    before = of("folder", tmp_path / "d")
    change(tmp_path / "d")
    [line] = changes(before, of("folder", tmp_path / "d"))
    assert said in line


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 1, 2), (0, 1, 2, 3, 3)])
def test_changes_of_array_records_are_named(tmp_path, order):
    path = tmp_path / "a.array_record"
    examples = [example({"image": [b"x" * 10 * (i + 1)]}) for i in range(4)]
    write_array_record(path, examples)
    before = of("array_record", path)
    write_array_record(path, [examples[i] for i in order])
    [line] = changes(before, of("array_record", path))
    assert "changed: a.array_record" in line


def test_names_of_classes_and_records_left_out_are_part_of_the_data(tmp_path):
    write_tars(tmp_path / "d")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    options = {"class_names": str(tmp_path / "names.txt")}
    before = of("webdataset", tmp_path / "d/*.tar", np.array([3]), **options)
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    [line] = changes(before, of("webdataset", tmp_path / "d/*.tar", np.array([4]), **options))
    assert "names of classes (other content" in line and "exclude_list (other content" in line


def test_data_sets_of_a_mixture_go_by_their_names():
    data = DataConfig(sources=Sections({"a": MixtureConfig(), "b": MixtureConfig()}))
    parts = [DataSet(MemorySource([1] * n), None, None) for n in (2, 3)]
    found = fingerprint(data, parts)
    assert found == {
        "data.sources.a": [Shard("memory", 0, 2, "")],
        "data.sources.b": [Shard("memory", 0, 3, "")],
    }
    other = fingerprint(data, [parts[0], DataSet(MemorySource([1] * 4), None, None)])
    [line] = changes(found, other)
    assert line == "config.data.sources.b: changed: memory (3 records then, 4 now)"


def test_of_many_shards_the_first_few_are_named():
    before = {"data.train": [Shard(f"{i}.tar", i, 1, "") for i in range(100)]}
    [line] = changes(before, {"data.train": []})
    assert line == "config.data.train: removed: 0.tar, 1.tar, 2.tar and 97 more"


@pytest.mark.parametrize(
    "stored", [None, 5, [], {"a": 5}, {"a": [[1]]}, {"a": [["n", "x", 1, ""]]}]
)
def test_what_is_no_fingerprint_is_none(stored):
    assert parse(stored) is None
