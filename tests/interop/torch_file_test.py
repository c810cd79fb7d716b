import zipfile

import ml_dtypes
import numpy as np
import pytest
from reference.open_clip import FOLDER
from reference.torch_writer import Call, Global, Tensor, save, tensor
from safetensors.numpy import load_file

from coca_jax.errors import UserError
from coca_jax.interop import torch_file

FILES = FOLDER / "torch_files"


def read(folder, tree):
    save(folder / "file.pt", tree)
    return torch_file.read(folder / "file.pt")


def test_a_state_dict_is_what_torch_saved():
    found = torch_file.read(FILES / "plain.pt")
    expected = load_file(FOLDER / "narrow.safetensors")
    assert found.keys() == expected.keys()
    for name, stored in found.items():
        assert stored.dtype == np.float32 and stored.shape == expected[name].shape
        np.testing.assert_array_equal(stored, expected[name])


def test_types_views_and_shared_storage():
    found = torch_file.read(FILES / "half.bin")
    with np.load(FILES / "expected.npz") as file:
        expected = {k.removeprefix("half.bin/"): v for k, v in file.items() if "half.bin/" in k}
    assert found.keys() == expected.keys()
    kinds = {stored.dtype for stored in found.values()}
    assert {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.int64)} <= kinds
    for name, stored in found.items():
        assert stored.shape == expected[name].shape
        values = np.asarray(stored)
        np.testing.assert_array_equal(values.astype(expected[name].dtype), expected[name])


def test_views_of_one_storage_wherever_it_was(tmp_path):
    flat = np.arange(12, dtype=np.float32)
    views = {
        "transposed": Tensor(flat, (3, 2), (1, 3), 6, location="cuda:7"),
        "expanded": Tensor(flat, (2, 3), (0, 1)),
        "empty": Tensor(flat, (0, 5), (5, 1)),
        "number": Tensor(flat, (), (), 11),
    }
    found = {name: np.asarray(stored) for name, stored in read(tmp_path, views).items()}
    np.testing.assert_array_equal(found["transposed"], flat[6:].reshape(2, 3).T)
    np.testing.assert_array_equal(found["expanded"], [flat[:3], flat[:3]])
    assert found["empty"].shape == (0, 5) and found["number"] == 11
    assert found["number"].shape == ()


def test_nothing_that_is_named_is_built_or_called(tmp_path, capsys):
    class_of = Global("numpy.core.multiarray", "scalar")
    tree = {
        "weight": np.ones(2, np.float32),
        "print": Call(Global("builtins", "print"), ("it ran",)),
        "system": Call(Global("posix", "system"), (f"touch {tmp_path}/ran",)),
        "scalar": Call(class_of, (Call(Global("numpy", "dtype"), ("f8",)), b"12345678")),
        "args": Call(Global("argparse", "Namespace"), state={"lr": 1.0}),
        "path": Call(Global("pathlib", "PosixPath"), ("/", "etc")),
        Global("my", "Callback"): {"best": np.zeros(1, np.float32)},
        "dict": Call(Global("my", "Dict"), items={"weight": np.ones(3, np.float32)}),
        "default": Call(Global("collections", "defaultdict"), (Global("builtins", "list"),)),
    }
    found = read(tmp_path, tree)
    assert capsys.readouterr().out == "" and not (tmp_path / "ran").exists()
    np.testing.assert_array_equal(found["weight"], [1, 1])
    np.testing.assert_array_equal(found["dict"]["weight"], [1, 1, 1])
    titles = {name: found[name].title for name in ("print", "system", "scalar", "args", "path")}
    assert titles == {
        "print": "builtins.print",
        "system": "posix.system",
        "scalar": "numpy.core.multiarray.scalar",
        "args": "argparse.Namespace",
        "path": "pathlib.PosixPath",
    }
    assert found["default"] == {}


def test_what_torch_itself_would_run_is_not_run(capsys):
    found = torch_file.read(FILES / "evil.pt")
    assert found["evil"].title == "__builtin__.print" and found["weight"].shape == (2,)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "title"),
    [
        (np.ones(2, np.complex64), "torch.ComplexFloatStorage"),
        (Call(Global("torch._utils", "_rebuild_qtensor"), (1, 2)), "torch._utils._rebuild_qtensor"),
        (
            Call(
                Global("torch._utils", "_rebuild_tensor_v3"),
                (0, 0, (2,), (1,), False, {}, Global("torch", "float8_e4m3fn")),
            ),
            "torch.float8_e4m3fn",
        ),
    ],
)
def test_tensors_of_other_kinds_have_a_title(tmp_path, value, title):
    assert read(tmp_path, {"a": value})["a"].title == title


@pytest.mark.parametrize(
    "wrong",
    [
        *({"offset": 10**6}, {"strides": (10**6,)}, {"strides": (-1,)}, {"offset": -4}),
        *({"shape": (2**60,), "strides": (0,)}, {"strides": ()}, {"strides": (10**30,)}),
    ],
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path, wrong):
    found = read(tmp_path, {"a": tensor(np.ones(4, np.float32), **wrong)})
    with pytest.raises(UserError, match="is damaged at archive/data/0"):
        np.asarray(found["a"])


@pytest.mark.parametrize(
    "program",
    [
        # Calls __setstate__ on what "BFloat16Storage" is; on a dtype, that would change its size.
        b"ctorch\nBFloat16Storage\n(I3\nS'<'\nNNNI64\nI64\nI0\ntb.",
        # Gives a tensor another file.
        b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQ"
        b"I0\n(I1\nt(I1\nttR(dVarchive\nV/etc/passwd\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQ"
        b"I0\n(Va\nt(I1\nttR.",  # a shape of strings
        b"\x80\x02]q\x00(\x82\x01.",  # an extension that nobody registered
        b"no pickle",
        b"",
    ],
)
def test_a_program_cannot_change_what_it_is_given(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", program)
    with pytest.raises(UserError, match="is damaged"):
        torch_file.read(tmp_path / "evil.pt")
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a/constants.pkl": b"", "a/data.pkl": b"}."}, "TorchScript"),
        ({"a/other": b""}, "no data.pkl"),
        ({"a/data.pkl": b"}.", "a/byteorder": b"big"}, "big-endian"),
    ],
)
def test_zips_of_other_kinds(tmp_path, members, said):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=said):
        torch_file.read(tmp_path / "a.pt")


def test_damage_is_reported(tmp_path):
    data = (FILES / "plain.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.pt is truncated or damaged"):
        torch_file.read(tmp_path / "cut.pt")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1  # in the middle of some tensor
    (tmp_path / "flipped.pt").write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        for stored in torch_file.read(tmp_path / "flipped.pt").values():
            np.asarray(stored)
