import os
import pathlib

import fsspec
import pytest

from coca_jax.errors import UserError
from coca_jax.io import files, paths

AWKWARD = ["a b", "a#b", "a%20b", "a?b", "[a]", "{a,b}", "a:b", "a*b", "é", "~x", "gs:", "\udcff"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder, and another one to work in."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def test_paths_have_one_form(home):
    expected = {
        "~/r": f"{home}/r",
        "r": "r",
        "/r": "/r",
        "file:///r/a%20b": "/r/a b",
        "file://localhost/r": "/r",
        "GS://b/r": "gs://b/r",
        "gcs://b/r": "gs://b/r",
        "s3a://b/r": "s3://b/r",
        str(pathlib.Path("gs://b/r")): "gs://b/r",
        str(pathlib.Path("simplecache::https://h/a")): "simplecache::https://h/a",
        "logs:/r": "logs:/r",
        "https://h/a.tar?sig=[1]*#x": "https://h/a.tar?sig=[1]*#x",
        "~nobody-of-this-name/r": "~nobody-of-this-name/r",
    }
    assert {path: paths.normalize(path) for path in expected} == expected


def test_what_exists_is_not_read_as_a_url(home):
    literal = pathlib.Path("a%20b").absolute()
    literal.touch()
    assert paths.normalize(f"file://{literal}") == str(literal)
    pathlib.Path("gs:/b").mkdir(parents=True)
    assert paths.normalize("gs:/b") == "gs:/b"


def test_folders_are_absolute(home):
    assert str(paths.as_path("~/r/../q")) == f"{home}/q"
    assert str(paths.as_path("r")) == os.path.abspath("r")
    assert str(paths.as_path("gs://b//r/./q/")) == "gs://b/r/q"
    assert str(paths.as_path(paths.as_path("s3://b/r") / "q")) == "s3://b/r/q"


@pytest.mark.parametrize("path", ["", " ", "\0", "file://r", "memory://r", "gs://", "gs://b/../r"])
def test_what_is_no_folder(path):
    with pytest.raises(UserError):
        paths.as_path(path)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_path_that_exists_is_no_pattern(name):
    folder = pathlib.Path(name)
    folder.mkdir()
    for file in ("x1.tar", "x2.tar", name + ".tar"):
        (folder / file).touch()
    assert paths.expand(f"{name}/{name}.tar") == [f"{name}/{name}.tar"]
    for pattern in ("x*.tar", "x{1,2}.tar", "x[12].tar"):
        assert paths.expand(f"{name}/{pattern}") == [f"{name}/x1.tar", f"{name}/x2.tar"]
    files.write_whole(f"{name}/made/x", b"1")
    assert files.read_bytes(f"{name}/made/x") == b"1" and files.is_file(f"{name}/made/x")


def test_a_url_that_exists_is_no_pattern():
    memory = fsspec.filesystem("memory")
    for name in ("[a]*", "b"):
        memory.pipe(f"/paths_test/{name}", b"1")
    assert paths.expand("memory://paths_test/[a]*") == ["memory://paths_test/[a]*"]
    assert [p.rsplit("/", 1)[1] for p in paths.expand("memory://paths_test/[ab]")] == ["b"]


def test_outputs_go_to_urls(home):
    files.write_whole("~/made/x", b"1")
    assert (home / "made/x").read_bytes() == b"1"
    files.write_whole("memory://paths_test/made/y", b"2")
    assert files.read_bytes("memory://paths_test/made/y") == b"2"
    assert files.is_file("memory://paths_test/made/y") and not files.is_file("memory://none")


def test_a_store_without_its_package_says_what_to_install(monkeypatch):
    def refuse(url):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(UserError, match=r"gs://b/x.*pip install 'coca_jax\[gcs\]'"):
        files.read_bytes("gs://b/x")


def test_a_store_whose_library_is_missing_is_named(monkeypatch):
    def missing(path):
        raise OSError("Unable to load libjvm")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"^hdfs://h/a cannot be opened: Unable to load libjvm"):
        paths.system_of("hdfs://h/a")
