import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
from reference.open_clip import FOLDER

from coca_jax.errors import UserError
from coca_jax.interop import torch_file
from coca_jax.interop.weights import read_tensors, write_tensors

FILES = FOLDER / "torch_files"


def test_a_state_dict_is_what_torch_saved(tmp_path):
    found = read_tensors(FILES / "plain.pt")
    expected = read_tensors(FOLDER / "narrow.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, expected[name])


def test_types_views_and_shared_storage():
    found = read_tensors(FILES / "half.bin")
    with np.load(FILES / "expected.npz") as file:
        expected = {k.removeprefix("half.bin/"): v for k, v in file.items() if "half.bin/" in k}
    assert found.keys() == expected.keys()
    kinds = {tensor.dtype for tensor in found.values()}
    assert {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.int64)} <= kinds
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape
        np.testing.assert_array_equal(tensor.astype(expected[name].dtype), expected[name])


def test_a_training_checkpoint_is_unwrapped():
    found = read_tensors(FILES / "checkpoint.pt")
    with np.load(FILES / "expected.npz") as file:
        names = [k.removeprefix("checkpoint.pt/") for k in file if "checkpoint.pt/" in k]
        plain = {name.removeprefix("module."): file[f"checkpoint.pt/{name}"] for name in names}
    assert found.keys() == plain.keys() and not any(n.startswith("module.") for n in found)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, plain[name])


@pytest.mark.parametrize(
    ("name", "said"),
    [("evil.pt", "refused: it names .*print"), ("legacy.pt", "1.6"), ("none.pt", "does not exist")],
)
def test_what_is_refused(name, said, capsys):
    with pytest.raises(UserError, match=said):
        read_tensors(FILES / name)
    assert capsys.readouterr().out == ""  # what the evil one would print


def test_a_tensor_that_reaches_out_of_its_storage_is_refused():
    tree = torch_file.read(FILES / "plain.pt")
    tensor = tree["text.cls_emb"]
    for wrong in ({"offset": 10**6}, {"strides": (10**6,)}, {"strides": (-1,)}, {"offset": -4}):
        broken = torch_file.Tensor(**(vars(tensor) | wrong))
        with pytest.raises(UserError, match="reaches out"):
            broken.read()
    for wrong in ({"shape": (2**60,), "strides": (0,)}, {"strides": ()}):
        with pytest.raises(UserError, match="is damaged"):
            torch_file.Tensor(**(vars(tensor) | wrong)).read()


def test_a_program_cannot_change_what_it_is_given(tmp_path):
    # Calls __setstate__ on what "BFloat16Storage" stands for; on a dtype, that changes its size.
    program = b"ctorch\nBFloat16Storage\n(I3\nS'<'\nNNNI64\nI64\nI0\ntb."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", program)
    with pytest.raises(UserError, match="is damaged"):
        torch_file.read(tmp_path / "evil.pt")
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


def test_damage_is_said(tmp_path):
    data = (FILES / "plain.pt").read_bytes()
    for name, content in {"cut.pt": data[: len(data) // 2], "text.safetensors": b"nothing"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_tensors(tmp_path / name)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1  # in the middle of some tensor
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(tmp_path / "flipped.pt")


def test_other_names_are_refused(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(UserError, match="should be named"):
        read_tensors(tmp_path / "weights.npz")
    with pytest.raises(UserError, match=r"should be named \.safetensors"):
        write_tensors(tmp_path / "out.pt", {}, {})


def test_written_files_say_what_they_are(tmp_path):
    file = tmp_path / "out.safetensors"
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.float16([1])}
    write_tensors(file, tensors, {"embed_dim": 4})
    with safetensors.safe_open(file, "numpy") as opened:
        assert json.loads(opened.metadata()["config"]) == {"embed_dim": 4}
    found = read_tensors(file)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
