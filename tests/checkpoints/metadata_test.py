"""Metadata of steps: whatever a step's JSON files contain, the step before stays usable."""

import shutil

import jax.numpy as jnp
import pytest

from coca_jax.checkpoints import CheckpointStore, manifest
from coca_jax.checkpoints.metadata import Saved, newest, require_files, sha256
from coca_jax.errors import UserError

CONTENTS = {
    "null": b"null",
    "number": b"5",
    "list": b"[]",
    "object": b"{}",
    "number in it": b'{"a": 5}',
    "negative": b'{"metadata.json": [-1, "0"], "layout.json": [3, "0"]}',
    "outside": b'{"../1/a": [1, "0"], "metadata.json": [1, "0"], "layout.json": [1, "0"]}',
    "absolute": b'{"/etc/passwd": [1, "0"], "metadata.json": [1, "0"], "layout.json": [1, "0"]}',
    "truth": b'{"metadata.json": [true, "0"], "layout.json": [1, "0"]}',
    "truncated": b'{"metadata.json": [',
    "empty": b"",
    "bytes": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "twice": b'{"metadata.json": [1, "0"], "metadata.json": [1, "0"]}',
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with CheckpointStore(directory) as store:
        for step in (1, 2):
            store.save(step, {"params": {"x": jnp.ones(3)}}, {"at": step})
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.mark.parametrize("name", ["manifest.json", "metadata.json", "layout.json"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_of_any_other_content_leaves_the_step_before(directory, name, content):
    (directory / "2" / name).write_bytes(CONTENTS[content])
    lines = []
    store = CheckpointStore(directory)
    assert store.latest_valid(lines.append) == 1
    assert len(lines) == 1 and name in lines[0] and str(directory / "2") in lines[0]
    assert newest(directory) == Saved(1, {"at": 1})
    with pytest.raises(UserError, match=name):
        store.metadata(2)


@pytest.mark.parametrize("name", ["metadata.json", "layout.json"])
@pytest.mark.parametrize("content", [b"null", b"[]", b'{"params": 5}', b'{"params": {"x": "3"}}'])
def test_the_same_where_the_manifest_agrees(directory, name, content):
    if name == "metadata.json" and content.startswith(b"{"):
        content = b"5"
    (directory / "2" / name).write_bytes(content)
    manifest.write(directory / "2")
    assert CheckpointStore(directory).latest_valid(lambda line: None) == 1
    assert newest(directory).step == 1


def test_a_folder_in_place_of_a_file(directory):
    (directory / "2/manifest.json").unlink()
    (directory / "2/manifest.json").mkdir()
    assert CheckpointStore(directory).latest_valid(lambda line: None) == 1
    assert newest(directory).step == 1


def test_files_that_the_manifest_does_not_name_are_ignored_and_said(directory):
    for name in (".DS_Store", "._x", "params/Thumbs.db", "manifest.json.tmp", "layout.json~"):
        (directory / "2" / name).write_bytes(b"stray")
    (directory / "2/empty").mkdir()
    (directory / ".DS_Store").write_bytes(b"stray")
    (directory / "3").write_bytes(b"no folder")
    lines = []
    store = CheckpointStore(directory)
    assert store.latest_valid(lines.append) == 2
    assert lines[0].startswith(f"checkpoint {directory / '3'} is not valid")
    assert "are ignored: .DS_Store, ._x, layout.json~ and 2 more" in lines[1]
    assert store.restore(2, {"params": {"x": jnp.zeros(3)}})["params"]["x"].tolist() == [1] * 3
    assert newest(directory).step == 2


def test_files_next_to_the_checkpoints_are_those_of_training(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"one")
    saved = Saved(3, {"files": {"tokenizer.model": sha256(b"one")}})
    require_files(tmp_path, saved)
    require_files(tmp_path, Saved(3, {}))
    require_files(tmp_path, Saved(3, {"files": 5}))
    (tmp_path / "tokenizer.model").write_bytes(b"two")
    with pytest.raises(UserError, match=r"tokenizer.model is not the file that step 3"):
        require_files(tmp_path, saved)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer.model cannot be read"):
        require_files(tmp_path, saved)


def test_what_a_checkpoint_says_is_read_without_jax(saved):
    import subprocess
    import sys

    code = (
        "import sys; from coca_jax.checkpoints.metadata import newest; "
        f"print(newest({str(saved)!r}).metadata, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{'at': 2} False", done.stderr
