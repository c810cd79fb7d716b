import resource
import subprocess
import sys

import pytest

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data_tools.prepare import prepare
from coca_jax.datasets import shapes
from coca_jax.errors import UserError


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(shapes.Shapes, "counts", {"train": 30, "test": 4})


def test_prepared_data_sets_are_left_as_they_are(few, tmp_path, capsys):
    folder = prepare("shapes", str(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert folder / "tokenizer.model" in files
    capsys.readouterr()
    assert prepare("shapes", str(tmp_path)) == folder
    printed = capsys.readouterr().out
    assert (
        "already prepared" in printed and "train: 30 examples" in printed and "test: 4" in printed
    )
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files


def test_preparation_is_the_same_every_time(few, tmp_path):
    folders = [str(tmp_path / name) for name in "ab"]
    sources = [
        tfds_source("shapes", "train", str(prepare("shapes", folder).parents[1]))
        for folder in folders
    ]
    assert [sources[0][i] for i in range(30)] == [sources[1][i] for i in range(30)]


def test_an_interrupted_preparation_is_not_taken_for_a_whole_one(tmp_path):
    program = (
        "import os, sys\n"
        "from coca_jax.datasets import shapes\n"
        "from coca_jax.data_tools.prepare import prepare\n"
        "draw, drawn = shapes.render, []\n"
        "def die(*scene):\n"
        "    drawn.append(scene)\n"
        "    if len(drawn) == 40: os._exit(9)\n"
        "    return draw(*scene)\n"
        "shapes.Shapes.counts = {'train': 30, 'test': 20}\n"
        "shapes.render = die\n"
        "prepare('shapes', sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    assert list(tmp_path.rglob("*incomplete*"))
    with pytest.raises(UserError, match="not prepared"):
        tfds_source("shapes", "train", str(tmp_path))


def test_it_goes_on_after_an_interruption(few, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("coca_jax.data_tools.prepare.train_sentencepiece", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare("shapes", str(tmp_path))
    folder = prepare("shapes", str(tmp_path))
    assert (folder / "tokenizer.model").stat().st_size > 0


def test_unknown_names_are_told_the_known_ones(tmp_path):
    known = "emoji, fashion_mnist, shapes"
    with pytest.raises(UserError, match=f"unknown data set 'coco'; known: {known}"):
        prepare("coco", str(tmp_path))


def test_a_full_disk_is_named_and_nothing_is_left(few, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        message = (
            r"shapes/1\..* is full: .*writing .*array_record.* about 35\.0 MiB more are needed"
        )
        with pytest.raises(UserError, match=message):
            prepare("shapes", str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
