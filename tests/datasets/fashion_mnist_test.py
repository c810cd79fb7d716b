import gzip

import numpy as np
import pytest

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data.transforms import images
from coca_jax.data_tools.prepare import prepare
from coca_jax.datasets import fashion_mnist
from coca_jax.errors import UserError


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.tobytes()


@pytest.fixture
def files(tmp_path):
    """A folder as in Debian's package: compressed or not, at some depth."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "files/data"
    folder.mkdir(parents=True)
    pixels = {}
    for name, count in (("train", 12), ("t10k", 5)):
        pixels[name] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[name])))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path / "files", pixels


def test_the_files_become_records_with_their_labels(files, tmp_path):
    folder, pixels = files
    prepare("fashion_mnist", str(tmp_path / "tfds"), str(folder))
    for split, name in fashion_mnist.SPLITS.items():
        source = tfds_source("fashion_mnist", split, str(tmp_path / "tfds"))
        assert len(source) == len(pixels[name]) and len(source.class_names) == 10
        for index in range(len(source)):
            record = source[index]
            gray = images.decode(record["image"])
            np.testing.assert_array_equal(gray, pixels[name][index][..., None].repeat(3, -1))
            assert record["label"] == index % 10 and record["captions"] == []
            assert record["labels"] == [fashion_mnist.CLASS_NAMES[index % 10]]


def test_files_that_are_wrong_are_named(files, tmp_path):
    folder, _ = files
    with pytest.raises(UserError, match="'shapes' is not made from files; fashion_mnist is"):
        prepare("shapes", str(tmp_path), str(folder))
    labels = folder / "data/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte should hold 5 bytes, not 4"):
        prepare("fashion_mnist", str(tmp_path / "tfds"), str(folder))
    labels.write_text("<html>")
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte should be an idx file"):
        prepare("fashion_mnist", str(tmp_path / "tfds"), str(folder))
    labels.unlink()
    with pytest.raises(UserError, match=r"no t10k-labels-idx1-ubyte or .*\.gz in"):
        prepare("fashion_mnist", str(tmp_path / "tfds"), str(folder))
    assert not (tmp_path / "tfds/fashion_mnist/1.0.0").exists()


def test_archives_that_are_damaged_are_named(tmp_path):
    whole = gzip.compress(idx(np.arange(90, dtype=np.uint8)))
    path = tmp_path / "labels.gz"
    broken = bytes(value ^ 255 for value in whole[10:20])
    for content in (whole[:-20], whole[:10] + broken + whole[20:], whole + b"more"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"labels\.gz cannot be unpacked: "):
            fashion_mnist.read_idx(path)
    path.write_bytes(idx(np.zeros(3, np.uint8))[:6])
    with pytest.raises(UserError, match=r"labels\.gz should be an idx file"):
        fashion_mnist.read_idx(path)


def test_without_the_package_manager_files_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"needs apt-get and dpkg-deb.*--files DIR"):
        prepare("fashion_mnist", str(tmp_path))
