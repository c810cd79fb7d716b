import json
import os

import numpy as np
import pytest
import safetensors
from reference.open_clip import FOLDER
from reference.torch_writer import Call, Global, save
from safetensors.numpy import save_file

from coca_jax.errors import UserError
from coca_jax.interop import weights
from coca_jax.interop.weights import open_tensors, write_tensors

FILES = FOLDER / "torch_files"
WEIGHTS = {
    "scale": np.array(4.5, np.float32),
    "visual.proj": np.arange(6, dtype=np.float32).reshape(2, 3),
    "text.proj": np.ones((2, 2), np.float32),
}


def check(path, weights=WEIGHTS, notes=()):
    """That a path has the weights, and nothing else is said of it than the notes."""
    lines = []
    found = open_tensors(path, weights, lines.append)
    assert found.keys() == weights.keys()
    for name, expected in weights.items():
        assert found[name].shape == np.shape(expected)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    assert [line.split(": ", 1)[1] for line in lines] == list(notes)


def test_a_training_checkpoint_of_torch_is_looked_through():
    with np.load(FILES / "expected.npz") as file:
        names = [k.removeprefix("checkpoint.pt/") for k in file if "checkpoint.pt/" in k]
        weights = {name.removeprefix("module."): file[f"checkpoint.pt/{name}"] for name in names}
    assert weights.keys() != set(names)
    found = open_tensors(FILES / "checkpoint.pt", weights)
    assert found.keys() == weights.keys()
    for name, stored in found.items():
        np.testing.assert_array_equal(stored, weights[name])


def test_only_the_weights_of_a_checkpoint_matter(tmp_path):
    scalar = Call(Global("numpy._core.multiarray", "scalar"), (1, b"12345678"))
    checkpoint = {
        "epoch": 3,
        "args": Call(Global("argparse", "Namespace"), state={"lr": scalar}),
        "state_dict": {f"module._orig_mod.{name}": value for name, value in WEIGHTS.items()},
        "optimizer": {"state": {0: {"step": scalar, "exp_avg": np.ones(3, np.float32)}}},
        "scaler": {"scale": scalar, "cls": Global("my.code", "Scaler")},
    }
    save(tmp_path / "epoch_3.pt", checkpoint)
    left_out = 4  # exp_avg, and three that nobody knows
    check(tmp_path / "epoch_3.pt", notes=[f"read state_dict; tensors left out: {left_out}"])


def test_what_is_next_to_the_weights_has_its_name(tmp_path):
    save(tmp_path / "a.pt", {"model": {**WEIGHTS, "extra": np.ones(5, np.float32)}})
    assert open_tensors(tmp_path / "a.pt", WEIGHTS)["model.extra"].shape == (5,)


def test_the_content_counts_and_not_the_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.pt")
    check(tmp_path / "weights.pt")
    save(tmp_path / "weights", WEIGHTS)
    check(tmp_path / "weights")


def test_wrapped_names_in_safetensors(tmp_path):
    wrapped = {f"module.{name}": value for name, value in WEIGHTS.items()}
    save_file(wrapped, tmp_path / "a.safetensors")
    check(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("end", "write"), [("safetensors", save_file), ("bin", None)])
def test_shards(tmp_path, end, write):
    write = write or (lambda tensors, file: save(file, tensors))
    names = list(WEIGHTS)
    shards = {f"a.{end}": names[:1], f"b.{end}": names[1:]}
    for file, part in shards.items():
        write({name: WEIGHTS[name] for name in part}, tmp_path / file)
    index = {name: file for file, part in shards.items() for name in part}
    path = tmp_path / f"model.{end}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    check(tmp_path)
    path.write_text(json.dumps({"weight_map": index | {"more": f"a.{end}"}}))
    with pytest.raises(UserError, match=r"the shards lack 1 of the 4 tensors .* names: more"):
        open_tensors(path, WEIGHTS)
    write({name: WEIGHTS[name] for name in names}, tmp_path / f"b.{end}")
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=r"scale is in several of its files"):
        open_tensors(path, WEIGHTS)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.ones((2, 2), np.complex64), r"text\.proj \(torch\.ComplexFloatStorage\)"),
        (Call(Global("torch._utils", "_rebuild_qtensor"), (1,)), "_rebuild_qtensor"),
    ],
)
def test_weights_of_other_kinds_are_named(tmp_path, value, said):
    save(tmp_path / "a.pt", WEIGHTS | {"text.proj": value})
    with pytest.raises(UserError, match=f"1 of the model's tensors .*{said}"):
        open_tensors(tmp_path / "a.pt", WEIGHTS)


def test_a_type_that_numpy_lacks_is_known_before_it_is_read(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}'
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"123")
    found = open_tensors(file, ["a"])["a"]
    assert (found.dtype, found.shape) == ("F8_E4M3", (3,))
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read at a"):
        np.asarray(found)


def test_a_header_whose_length_begins_as_a_zip_does(tmp_path):
    file, length = tmp_path / "a.safetensors", int.from_bytes(b"PK", "little") + 7 & ~7
    assert length.to_bytes(8, "little").startswith(b"PK")
    for padding in range(length):
        save_file(WEIGHTS, file, {"padding": " " * (length - 400 + padding)})
        if file.read_bytes()[:8] == length.to_bytes(8, "little"):
            break
    assert file.read_bytes().startswith(b"PK")
    assert open_tensors(file, WEIGHTS).keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, "it holds no tensors"),
        ([1, "a"], "it holds no tensors"),
        (np.ones(2, np.float32), "it holds 1 tensor:"),
        ({f"layer.{i}": np.ones(1) for i in range(9)}, r"9 tensors: layer\.0, .* and 4 more"),
        (Call(Global("open_clip", "CoCa"), state={"training": True}), r"open_clip\.CoCa.*never"),
    ],
)
def test_files_without_the_weights_say_what_they_hold(tmp_path, tree, said):
    save(tmp_path / "a.pt", tree)
    with pytest.raises(UserError, match=f"holds no weights of the model: .*{said}"):
        open_tensors(tmp_path / "a.pt", WEIGHTS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"nothing", "begins with b'nothing'"),
        (b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x10\0\0\0\0\0\0\0{}", "cannot be read"),
        (b"\xff" * 8 + b"{}", "cannot be read"),
        (b"PK\3\4 and then nothing", "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_other_files_are_refused(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        open_tensors(tmp_path / name, WEIGHTS)


def test_files_that_are_old_truncated_or_not_there(tmp_path):
    with pytest.raises(UserError, match=r"before 1\.6"):
        open_tensors(FILES / "legacy.pt", WEIGHTS)
    with pytest.raises(UserError, match="does not exist"):
        open_tensors(tmp_path / "none.pt", WEIGHTS)
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    os.truncate(tmp_path / "a.safetensors", (tmp_path / "a.safetensors").stat().st_size - 1)
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read: .*not fully covered"):
        open_tensors(tmp_path / "a.safetensors", WEIGHTS)


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(UserError, match=r"should be named \.safetensors"):
        write_tensors(tmp_path / "out.pt", {}, {})


def test_written_files_say_what_they_are(tmp_path):
    file = tmp_path / "out.safetensors"
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.float16([1])}
    write_tensors(file, tensors, {"embed_dim": 4})
    with safetensors.safe_open(file, "numpy") as opened:
        assert json.loads(opened.metadata()["config"]) == {"embed_dim": 4}
    check(file, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_files_at_urls_are_copied_while_they_are_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "is_url", lambda path: True)
    monkeypatch.setattr(weights.tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    save(tmp_path / "b.pt", WEIGHTS)
    for name in ("a.safetensors", "b.pt"):
        found = open_tensors(tmp_path / name, WEIGHTS)
        (tmp_path / name).unlink()  # what is read is the copy, and it has no name any more
        assert not list((tmp_path / "copies").iterdir())
        np.testing.assert_array_equal(found["visual.proj"], WEIGHTS["visual.proj"])
