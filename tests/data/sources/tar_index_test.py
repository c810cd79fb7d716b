import io
import itertools
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from coca_jax.data.sources import tar_index
from coca_jax.data.sources.tar_index import open_indices
from coca_jax.errors import UserError
from coca_jax.io import files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of indices that cannot be beside their tars."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/coca_jax/tar_index"


def write(path, names, size=900):
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = size + i
            tar.addfile(info, io.BytesIO(bytes([i % 256]) * info.size))
    return str(path)


def pairs(count):
    return [f"{i:04}.{end}" for i in range(count) for end in ("jpg", "txt")]


def rows(index):
    return [index.row(i) for i in range(index.count)]


def expected(path):
    """The same by `tarfile`, for names with one dot: its image, text, JSON and class."""
    columns = {"jpg": 0, "jpeg": 0, "png": 0, "webp": 0, "txt": 2, "json": 4, "cls": 6}
    with tarfile.open(path) as tar:
        found = list(tar)
    for _, group in itertools.groupby(found, key=lambda member: os.path.splitext(member.name)[0]):
        row = [0, -1] * 4
        for member in group:
            column = columns.get(member.name.rpartition(".")[2].lower())
            if column is not None:
                row[column : column + 2] = member.offset_data, member.size
        if row[1] >= 0:
            yield tuple(row)


def test_rows_are_the_places_of_the_parts(tmp_path):
    names = ["a.jpg", "a.txt", "a.json", "b.json", "b.txt", "c.npy", "c.WebP", "c.cls", "d.x/e.png"]
    path = write(tmp_path / "a.tar", [*names, "f.JPEG", "f.Txt", "g.png"])
    [index] = open_indices([path])
    assert rows(index) == list(expected(path))
    # b has no image, g no text; g.png is no second image of f, as their keys differ.
    assert index.count == 5 and index.notes == {
        "without_image": (1, "b", {".txt": 1, ".json": 1}),
        "without_text": (2, "d.x/e", {}),
    }
    table = np.load(path + ".coca_index", mmap_mode="r")
    assert isinstance(table, np.memmap) and table.shape == (6, 8) and table.dtype == np.int64
    assert [tuple(row) for row in table[1:].tolist()] == rows(index)


def test_a_sample_is_members_in_a_row_with_one_name_up_to_the_first_dot(tmp_path):
    names = ["a/1.jpg", "a/1.seg.png", "a/1.txt", "b/1.jpg", "b/1.x.txt", "b/.txt", "b/txt"]
    path = write(tmp_path / "a.tar", [*names, "b/1.txt", "a/1.png", "a.b/2.jpg", "a.b/2.txt"])
    [index] = open_indices([path])
    sizes = [tuple(row[1::2]) for row in rows(index)]
    assert sizes == [
        (900, 902, -1, -1),
        (903, 907, -1, -1),  # what has no name or no extension does not part samples
        (908, -1, -1, -1),
        (909, 910, -1, -1),
    ]


def test_an_index_is_made_once(tmp_path, monkeypatch, capfd):
    path = write(tmp_path / "a.tar", pairs(3))
    first = open_indices([path])
    monkeypatch.setattr(tar_index, "scan", None)
    assert open_indices([path]) == first
    assert first[0].table is None and first[0].file == path + ".coca_index"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("change", ["size", "time", "older", "short", "long", "empty", "text"])
def test_an_index_that_does_not_fit_is_made_anew(tmp_path, monkeypatch, change):
    path = write(tmp_path / "a.tar", pairs(3))
    [before] = open_indices([path])
    before.row(0)  # holds the index open
    kept = tmp_path / "a.tar.coca_index"
    if change == "size":
        write(path, pairs(20))
    elif change == "time":
        write(path, pairs(3), size=901)
        os.utime(path, (1, 1))
    elif change == "older":
        kept.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(tar_index, "FORMAT", tar_index.FORMAT - 1)
            open_indices([path])
    else:
        whole = kept.read_bytes()
        damaged = {"short": whole[:-1], "long": whole + b"1", "empty": b"", "text": b"x" * 500}
        kept.write_bytes(damaged[change])
    [after] = open_indices([path])
    assert rows(after) == list(expected(path))
    assert len(np.load(kept)) == after.count + 1


@pytest.mark.parametrize("cut", ["body", "header", "junk"])
def test_a_torn_tar_is_used_up_to_there(tmp_path, cut):
    path = write(tmp_path / "a.tar", pairs(3))
    whole = (tmp_path / "a.tar").read_bytes()  # of 6 x 3 blocks
    truncated = {"body": whole[: 14 * 512], "header": whole[: 12 * 512 + 99]}
    truncated["junk"] = whole[: 12 * 512] + b"\xaa" * 5000
    (tmp_path / "a.tar").write_bytes(truncated[cut])
    for _ in range(2):  # found, and known from the index
        [index] = open_indices([path])
        assert index.count == 2 and [*index.notes] == ["cut_off"]


def test_a_sample_with_a_torn_part_is_left_out(tmp_path):
    path = write(tmp_path / "a.tar", pairs(3))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[: 17 * 512])
    [index] = open_indices([path])
    assert index.count == 2 and [*index.notes] == [
        "cut_off"
    ]  # the third has its image, but not all of its text


def test_empty_tars_have_no_samples(tmp_path):
    tarfile.open(tmp_path / "a.tar", "w").close()
    (tmp_path / "b.tar").write_bytes(b"")
    (tmp_path / "c.tar").write_bytes(b"short")
    indices = open_indices([str(tmp_path / f"{name}.tar") for name in "abc"])
    assert [(index.count, [*index.notes]) for index in indices] == [
        (0, []),
        (0, ["no_end"]),
        (0, ["cut_off"]),
    ]


def test_what_is_no_tar_is_named(tmp_path):
    good = write(tmp_path / "good.tar", pairs(1))
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"<html>" * 200)
    with pytest.raises(
        UserError, match=r"bad.tar is not a tar file but a web page, .* begins with b'<html>"
    ):
        open_indices([good, str(bad)])
    with tarfile.open(bad, "w:gz") as tar:
        tar.add(good)
    with pytest.raises(UserError, match=r"bad.tar is compressed"):
        open_indices([good, str(bad)])
    with pytest.raises(UserError, match=r"there is no tar .*gone\.tar"):
        open_indices([good, str(tmp_path / "gone.tar")])
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(UserError, match=r"folder.tar cannot be read: .*directory"):
        open_indices([str(tmp_path / "folder.tar")])


def test_where_the_folder_cannot_be_written_to(tmp_path, cache, monkeypatch, capfd):
    path = write(tmp_path / "a.tar", pairs(3))
    (tmp_path / "a.tar.coca_index").mkdir()  # nothing can be put in its place
    [index] = open_indices([path])
    assert os.path.dirname(index.file) == str(cache) and rows(index) == list(expected(path))
    [index] = open_indices([path], str(tmp_path / "mine"))
    assert os.path.dirname(index.file) == str(tmp_path / "mine")
    assert rows(index) == list(expected(path)) and capfd.readouterr().err == ""
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.coca_index", "cache", "mine"]

    (tmp_path / "file").write_bytes(b"")
    [index] = open_indices([path], str(tmp_path / "file"))
    assert index.file == "" and rows(index) == list(expected(path))
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and "1 tars, such as " + path in message
    assert f"{tmp_path / 'file'} cannot be written to" in message


def test_tars_of_one_name_do_not_share_an_index(tmp_path, cache):
    paths = []
    for i, folder in enumerate((tmp_path / "x", tmp_path / "y")):
        (folder / "a.tar.coca_index").mkdir(parents=True)
        paths.append(write(folder / "a.tar", pairs(i + 1)))
    assert [index.count for index in open_indices(paths)] == [1, 2]
    assert len(os.listdir(cache)) == 2


def test_tars_behind_urls_are_read_by_ranges(tmp_path, cache, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    path = write(tmp_path / "a.tar", pairs(40), size=9000)
    url = f"memory://{tmp_path.name}/a.tar"
    with memory.open(url, "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    monkeypatch.setattr(tar_index, "URL_CHUNK", 2048)
    asked, plain = [], files.read_range
    monkeypatch.setattr(files, "read_range", lambda *a: asked.append(a) or plain(*a))
    [index] = open_indices([url])
    assert rows(index) == list(expected(path)) and os.path.dirname(index.file) == str(cache)
    assert sum(size for name, _, size in asked if name == url) < 0.3 * os.path.getsize(path)
    asked.clear()
    open_indices([url])
    assert not asked
    memory.rm(url)
    with pytest.raises(UserError, match="there is no tar memory://"):
        open_indices([url])


def test_processes_index_many_tars(tmp_path, monkeypatch):
    first = write(tmp_path / "000.tar", pairs(5))
    paths = [first] + [shutil.copy(first, tmp_path / f"{i:03}.tar") for i in range(1, 40)]
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tar_index, "scan", None)  # what would do it here
    indices = open_indices([str(path) for path in paths])
    assert [index.tar for index in indices] == [str(path) for path in paths]
    assert all(rows(index) == list(expected(first)) for index in indices)


def test_many_tars_of_which_one_is_none(tmp_path):
    paths = [write(tmp_path / f"{i:03}.tar", pairs(1)) for i in range(40)]
    (tmp_path / "020.tar").write_bytes(b"<html>" * 200)
    with pytest.raises(UserError, match=r"020\.tar is not a tar file"):
        open_indices(paths)


def test_what_other_processes_fail_at_is_done_here(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i:03}.tar", pairs(1)) for i in range(40)]
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert [index.count for index in open_indices(paths)] == [1] * 40


def test_several_processes_may_index_at_once(tmp_path):
    paths = [write(tmp_path / f"{i}.tar", pairs(50)) for i in range(6)]
    code = (
        "import sys; from coca_jax.data.sources.tar_index import open_indices; "
        "print(sum(index.count for index in open_indices(sys.argv[1:])))"
    )
    command = [sys.executable, "-c", code, *paths]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [racer.communicate()[0] for racer in racers] == ["300\n"] * 3
    assert [list(expected(path)) for path in paths] == [rows(i) for i in open_indices(paths)]
    assert len(os.listdir(tmp_path)) == 12
