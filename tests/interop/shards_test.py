import json

import pytest

from coca_jax.errors import UserError
from coca_jax.interop.shards import weight_files


def make(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"x")


def write_index(folder, shards, name="model.safetensors.index.json"):
    index = {"weight_map": {f"tensor.{i}": shard for i, shard in enumerate(shards)}}
    (folder / name).write_text(json.dumps(index))
    return folder / name


def test_an_index_names_its_shards(tmp_path):
    make(tmp_path, "a.safetensors", "b.safetensors", "pytorch_model.bin.index.json")
    index = write_index(tmp_path, ["a.safetensors", "b.safetensors", "a.safetensors"])
    for given in (index, str(index), tmp_path):
        files, names = weight_files(given)
        assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
        assert names == ["tensor.0", "tensor.1", "tensor.2"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["x.safetensors", "x.bin", ".y.safetensors", "config.json"], "x.safetensors"),
        (["model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
        (["open_clip_model.safetensors", "open_clip_x.bin"], "open_clip_model.safetensors"),
        (["last.ckpt"], "last.ckpt"),
        (["pytorch_model.bin", "optimizer.pt"], "pytorch_model.bin"),
        (
            ["open_clip_pytorch_model.safetensors", "open_clip_model.safetensors"],
            "open_clip_model.safetensors",
        ),
        (["model.safetensors.index.json", "model.safetensors"], "model.safetensors"),
    ],
)
def test_the_file_of_a_folder(tmp_path, names, chosen):
    make(tmp_path, *names)
    assert weight_files(tmp_path) == ([tmp_path / chosen], [])


def test_folders_without_and_with_too_much(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        weight_files(tmp_path)
    make(tmp_path, "epoch_1.pt", "epoch_2.pt")
    with pytest.raises(UserError, match=r"several .*: epoch_1\.pt, epoch_2\.pt; give one"):
        weight_files(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        weight_files(tmp_path / "none.pt")


@pytest.mark.parametrize("shard", ["../a", "/etc/a", "b/../../a", "..\\a", "C:\\a", "c:a", ""])
def test_shards_outside_of_the_folder_are_refused(tmp_path, shard):
    folder = tmp_path / "b"
    folder.mkdir()
    make(tmp_path, "a")
    make(folder, "c")
    with pytest.raises(UserError, match="outside of its folder"):
        weight_files(write_index(folder, ["c", shard]))


def test_missing_shards_are_counted(tmp_path):
    make(tmp_path, "a")
    with pytest.raises(UserError, match="2 of 3 shards are not there: b, c"):
        weight_files(write_index(tmp_path, ["a", "b", "c"]))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"5", b"{}", b"\xff\xfe{", b"[" * 10**5),
        *(b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": null}'),
        b'{"weight_map": {"a": 5}}',
    ],
)
def test_a_malformed_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(UserError, match="is not an index of shards"):
        weight_files(tmp_path)
