import errno
import os
import pathlib
import threading

import fsspec
import pytest

from coca_jax.errors import UserError
from coca_jax.io import files


@pytest.fixture
def url(tmp_path):
    """A folder in memory."""
    memory, folder = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
    for name in ("a.tar", "b.tar", "c.txt"):
        memory.pipe(f"{folder}/{name}", b"0123456789")
    yield folder
    memory.rm(folder, recursive=True)


def test_braces_count_and_list():
    assert files.expand("x/{08..11}.tar") == [f"x/{i:02}.tar" for i in (8, 9, 10, 11)]
    assert files.expand(["{b,a}/1", "c"]) == ["b/1", "a/1", "c"]
    assert files.expand("s3://bucket/{0..1}.tar") == ["s3://bucket/0.tar", "s3://bucket/1.tar"]


def test_globs_are_sorted_within_each_brace(tmp_path):
    for name in ("b2", "b1", "a1", "b10"):
        (tmp_path / name).touch()
    found = files.expand(str(tmp_path / "{b,a}*"))
    assert [path[len(str(tmp_path)) + 1 :] for path in found] == ["b1", "b10", "b2", "a1"]
    for pattern in ("b?", "b[0-9]"):
        assert files.expand(str(tmp_path / pattern)) == [found[0], found[2]]


def test_globs_of_urls_are_urls(url):
    name = url.removeprefix("memory://")
    found = files.expand(f"{url}/*.tar")
    assert [path.split("://")[0] for path in found] == ["memory"] * 2
    assert all(path.endswith(f"{name}/{x}.tar") for path, x in zip(found, "ab", strict=True))
    assert files.read_range(found[0], 2, 3) == b"234"


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("{1,2", "the braces of '{1,2' do not match"),
        ("no/such/*.tar", r"no file matches 'no/such/\*.tar'"),
        (["a", "{b,a}"], "a is named twice"),
        ([], "no path is given"),
        ("", "no path is given"),
    ],
)
def test_errors_in_patterns_are_named(pattern, message):
    with pytest.raises(UserError, match=message):
        files.expand(pattern)


def test_ranges(tmp_path, url):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    for name in (str(path), f"{url}/a.tar"):
        assert files.read_range(name, 0, 10) == b"0123456789"
        assert files.read_range(name, 3, 2) == b"34"
        assert files.read_range(name, 9, 1) == b"9"
        for offset, size in ((8, 3), (10, 1), (50, 5)):
            with pytest.raises(EOFError, match=rf"{name} ends .* within {offset}\+{size}"):
                files.read_range(name, offset, size)


def test_missing_files(tmp_path, url):
    for name in (str(tmp_path / "none"), f"{url}/none"):
        with pytest.raises(FileNotFoundError):
            files.stamp(name)
        with pytest.raises(FileNotFoundError):
            files.read_range(name, 0, 1)
    with pytest.raises(UserError, match=r"nosuch://a cannot be opened: .*nosuch"):
        files.stamp("nosuch://a")


def test_stamps_change_with_the_file(tmp_path, url):
    path = tmp_path / "a"
    path.write_bytes(b"12")
    first = files.stamp(str(path))
    assert first.size == 2 and files.stamp(str(path)) == first
    path.write_bytes(b"123")
    assert files.stamp(str(path)) != first
    first = files.stamp(f"{url}/a.tar")
    assert first.size == 10 and files.stamp(f"{url}/a.tar") == first
    fsspec.filesystem("memory").pipe(f"{url}/a.tar", b"9876543210")
    assert files.stamp(f"{url}/a.tar").version != first.version


def test_more_files_than_are_kept_open(tmp_path, monkeypatch):
    paths = [tmp_path / str(i) for i in range(files.OPEN_FILES + 20)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%04d" % i)

    def read(results):
        for _ in range(2):
            results.append([int(files.read_range(str(path), 0, 4)) for path in paths])

    results = []
    threads = [threading.Thread(target=read, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(len(paths)))] * 8


def test_what_replaced_an_open_file_is_read_after_forgetting(tmp_path):
    path = tmp_path / "a"
    for content in (b"old", b"new"):
        files.write_whole(path, content)
        files.forget()
        assert files.read_range(str(path), 0, 3) == content


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    files.write_whole(tmp_path / "new/folder/a", b"1")
    assert (tmp_path / "new/folder/a").read_bytes() == b"1"
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        files.write_whole(tmp_path / "taken", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]


def test_what_cannot_be_written_is_refused_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path in ("new/deep/file", "file", "gs://bucket/file", "/dev/null"):
        files.require_writable(tmp_path / path if path[0] in "nf" else path)
    with pytest.raises(UserError, match="is a folder; it should be a file"):
        files.require_writable(tmp_path)
    with pytest.raises(UserError, match=r"file/in/it cannot be written: .*file is not a folder"):
        files.require_writable(tmp_path / "file/in/it")
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    with pytest.raises(UserError, match=r"new/file cannot be written: .* does not permit it"):
        files.require_writable(tmp_path / "new/file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_is_kept(tmp_path, there):
    (tmp_path / "other").mkdir()
    if there:
        (tmp_path / "other/file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("other/file")
    files.write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other/file").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_written_to(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_whole(tmp_path / name, b"1")
    assert os.read(reader, 10) == b"1"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_a_link_to_an_empty_folder_is_kept(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with files.atomic(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_bytes(b"all")
    assert (tmp_path / "there/weights").read_bytes() == b"all"
    assert (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ValueError), files.atomic(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_bytes(b"half")
        raise ValueError
    assert not list(tmp_path.iterdir())
    with files.atomic(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "weights").write_bytes(b"all")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model/weights").read_bytes() == b"all"
    with (
        pytest.raises(FileExistsError, match="model"),
        files.atomic(tmp_path / "model") as t,
    ):
        t.mkdir()
    assert (tmp_path / "model/weights").read_bytes() == b"all"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), files.atomic(tmp_path / "a"):
        (tmp_path / "absent").read_bytes()


def test_a_file_at_a_url_is_copied_when_it_is_whole(url):
    memory = fsspec.filesystem("memory")
    with pytest.raises(ValueError), files.atomic(f"{url}/d") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert not memory.exists(f"{url}/d")
    with files.atomic(f"{url}/d") as temporary:
        temporary.write_bytes(b"all")
    assert memory.cat(f"{url}/d") == b"all"


ODD = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # where str.splitlines ends a line, too


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [0, 1, 3])
def test_lines_of_names_end_where_editors_end_them(tmp_path, encoding, end, last):
    path, names = tmp_path / "names", ["Ärger", *(f"a{c}b" for c in ODD), "two words"]
    path.write_bytes((end.join(names) + end * last).encode(encoding))
    assert files.read_lines(str(path)) == names


def test_utf_16_of_both_byte_orders_and_a_mark_within(tmp_path):
    path = tmp_path / "names"
    for mark, order in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        path.write_bytes(mark + "cat\n dog \n".encode(order))
        assert files.read_lines(str(path)) == ["cat", "dog"]
    path.write_bytes(b"cat\n" + "dog\n".encode("utf-8-sig"))  # two files, one behind the other
    assert files.read_lines(str(path)) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog", "names:2 is blank"),
        (b"\r\rdog", "names:1 is blank"),
        (b"cat\r\n \t\r\ndog", "names:2 is blank"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"cat\nd\0g\n", "names:2 holds a NUL"),
        ("cat\n".encode("utf-16-le"), "names:1 holds a NUL"),
        (b"caf\xe9\n", "cannot be read: .*utf-8"),
        (b"\xff\xfec", "cannot be read"),
    ],
)
def test_what_is_no_list_of_names(tmp_path, content, message):
    path = tmp_path / "names"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        files.read_lines(str(path))


@pytest.mark.parametrize("where", ["write_bytes", "replace"])
def test_a_disk_that_is_full_leaves_nothing_and_names_the_file(tmp_path, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.json").write_bytes(b"before")
    monkeypatch.setattr(pathlib.Path, where, full)
    with pytest.raises(OSError, match=r"No space left on device: '[^']*/a.json'$"):
        files.write_whole(tmp_path / "a.json", b"after")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"before"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    old, new = tmp_path / f".a.json.{'0a' * 16}", tmp_path / f".a.json.{'1b' * 16}"
    for path in (old, new, tmp_path / ".lock", tmp_path / "config.json"):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    gone = tmp_path / f".a.json.{'2c' * 16}"
    gone.symlink_to(tmp_path / "absent")  # as one that its writer renames just now
    files.remove_temporaries(tmp_path)
    files.remove_temporaries(tmp_path / "absent")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {new.name, gone.name, ".lock", "config.json"}


def test_folders_that_killed_writers_left_are_removed(tmp_path, monkeypatch):
    left = [tmp_path / f".{name}.{'0a' * 16}" for name in ("out", "writing", "other")]
    for folder in left:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/a.json").write_bytes(b"x")
        old = [] if "writing" in folder.name else [folder / "deep/a.json"]
        for path in (*old, folder / "deep", folder):
            os.utime(path, (1, 1))
    files.remove_temporaries(tmp_path, name="out")
    assert {*tmp_path.iterdir()} == {*left[1:]}
    files.remove_temporaries(tmp_path, min_age=0.0, name="writing")
    files.remove_temporaries(tmp_path, min_age=0.0)
    assert {*tmp_path.iterdir()} == {*left[1:]}

    def refuse(folder):
        raise PermissionError

    with monkeypatch.context() as patch:  # a folder that may be entered, but not listed
        patch.setattr(os, "scandir", refuse)
        files.remove_temporaries(tmp_path)
