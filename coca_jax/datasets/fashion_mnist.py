"""Fashion-MNIST: 70,000 gray photographs of clothes, 28 x 28 pixels, in ten classes.

Xiao, Rasul, Vollgraf 2017 (https://arxiv.org/abs/1708.07747), MIT license. The files come from
Debian's package, or from a folder that already has them.
"""

import gzip
import io
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from coca_jax.datasets.base import Builder
from coca_jax.errors import UserError

PACKAGE = "dataset-fashion-mnist"
SPLITS = {"train": "train", "test": "t10k"}
CLASS_NAMES = [
    "t-shirt",
    "pair of trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Reads an array of bytes in MNIST's idx format, compressed or not.

    Raises:
      UserError: the file is of another format, or incomplete.
    """
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked: {error}") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path} should be an idx file of bytes")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    content = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if content.size != np.prod(shape):
        raise UserError(f"{path} should hold {np.prod(shape):,} bytes, not {content.size:,}")
    return content.reshape(shape)


def fetch(folder: Path) -> Path:
    """Downloads and unpacks Debian's package into a folder; returns where its files are.

    Raises:
      UserError: apt-get or dpkg-deb is missing or fails.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError(
            f"Fashion-MNIST comes as Debian's package {PACKAGE}, which needs apt-get and dpkg-deb; "
            "with its four idx files in a folder, give that: --files DIR"
        )
    _run(["apt-get", "download", "--quiet", PACKAGE], folder)
    (package,) = folder.glob(f"{PACKAGE}*.deb")
    _run(["dpkg-deb", "--extract", package.name, "content"], folder)
    return folder / "content"


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def find(folder: Path, name: str) -> Path:
    """The file of that name, compressed or not, anywhere in a folder."""
    paths = sorted(path for path in folder.rglob(f"{name}*") if path.is_file())
    if not paths:
        raise UserError(f"there is no {name} or {name}.gz in {folder}")
    return paths[0]


class FashionMnist(Builder, skip_registration=True):
    """Fashion-MNIST's photographs with their classes; there are no captions: labels are text."""

    VERSION = tfds.core.Version("1.0.0")
    size_mib = 40

    def __init__(self, files: str | None = None, **kwargs: Any):
        """Takes the folder of the idx files; None: Debian's package is downloaded."""
        self._files = files
        super().__init__(**kwargs)

    def features(self) -> dict[str, Any]:
        """An image and its label; there are no texts to train a tokenizer on."""
        return {
            "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(self._files) if self._files else fetch(Path(temporary))
            arrays = {
                split: [
                    read_idx(find(folder, f"{name}-{kind}"))
                    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
                ]
                for split, name in SPLITS.items()
            }
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _generate_examples(
        self, images: UInt8[np.ndarray, "n 28 28"], labels: UInt8[np.ndarray, "n"]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            file.seek(0)
            yield index, {"image": file, "label": int(label)}
