"""Emoji: images and names of about 1,900 concepts, in three drawing styles.

The two styles of `train` and the one of `test` show the same concepts, so that testing measures
recognition in an unseen style. The skin tones of one emoji are left out: near-duplicates of a few
hundred people and hands would be half of the data.

The images are Google's Noto Emoji (Apache-2.0), Microsoft's Fluent Emoji (MIT) and Twitter's
Twemoji (CC-BY-4.0); the names and tags are those of emojibase (MIT), from Unicode's CLDR.
"""

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import tensorflow_datasets as tfds

from coca_jax.data.transforms import images
from coca_jax.datasets.base import Builder
from coca_jax.errors import UserError

IMAGE_SIZE = 64  # pixels

# npm packages, and the folder or file in each that is read.
STYLES = {
    "google": ("emoji-datasource-google@16.0.0", "package/img/google/64"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets"),
    "twitter": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64"),
}
NAMES = ("emojibase-data@17.0.0", "package/en/data.json")
SPLITS = {"train": ("google", "fluent"), "test": ("twitter",)}

CLASS_NAMES = [  # Unicode's groups, in the order of their numbers
    "smileys and emotion",
    "people and body",
    "component",
    "animals and nature",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
]
CAPTION_TAGS = 4

CodePoints = tuple[int, ...]


class Concept(NamedTuple):
    """The name and the group of an emoji, which all styles share."""

    captions: list[str]  # the name first
    label: int  # its group


def fetch(package: str, folder: Path) -> Path:
    """Downloads an npm package ("name@version") into a folder; returns the tarball's path.

    Raises:
      UserError: npm is missing or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UserError("the emoji come as npm packages: install Node.js, which has `npm`")
    command = [npm, "pack", "--silent", package, "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"`npm pack {package}` failed: {done.stderr.strip()}")
    return folder / done.stdout.split()[-1]


def read_package(tarball: Path, path: str) -> dict[str, bytes]:
    """Reads the file at `path` of a package, or the files directly in that folder, by name."""
    files = {}
    with tarfile.open(tarball) as archive:
        for member in archive:
            if member.isfile() and path in (member.name, str(PurePosixPath(member.name).parent)):
                files[PurePosixPath(member.name).name] = archive.extractfile(member).read()
    if not files:
        raise UserError(f"{tarball.name} holds no {path}")
    return files


def concepts(data: bytes) -> dict[CodePoints, Concept]:
    """Reads the concepts of emojibase's data.json, without those of no group (parts of flags)."""
    entries = json.loads(data)
    return {
        code_points(entry["hexcode"]): Concept(_captions(entry), entry["group"])
        for entry in entries
        if "group" in entry
    }


def code_points(name: str) -> CodePoints:
    """Reads code points such as "270B-FE0F" as numbers, without the variation selector FE0F."""
    return tuple(point for point in (int(part, 16) for part in name.split("-")) if point != 0xFE0F)


def _captions(entry: dict[str, Any]) -> list[str]:
    name, group = entry["label"], CLASS_NAMES[entry["group"]]
    words = name.lower().replace(":", "").split()
    tags = [tag for tag in entry.get("tags", []) if tag.lower() not in words]
    texts = [name, f"an emoji: {name}", f"{name}, from {group}"]
    if tags:
        texts.append(f"{name} ({', '.join(tags[:CAPTION_TAGS])})")
    return texts


def _square(data: bytes) -> io.BytesIO:
    """The central square as a PNG; its scaling is fixed, unlike that of evaluation."""
    image = images.decode(data)
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    image = image[top : top + side, left : left + side]
    image = cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
    return io.BytesIO(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


class Emoji(Builder):
    """Emoji on white with their names and groups; `test` is a drawing style not in `train`."""

    VERSION = tfds.core.Version("1.0.0")
    size_mib = 100
    tokenizer_vocab_size = 3_000

    def features(self) -> dict[str, Any]:
        """An image with its names and its group."""
        return {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
        }

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # npm downloads, and checks and caches what it has downloaded
        with tempfile.TemporaryDirectory() as folder:
            packages = {
                package: read_package(fetch(package, Path(folder)), path)
                for package, path in (NAMES, *STYLES.values())
            }
        concepts_by_code = concepts(*packages[NAMES[0]].values())
        return {
            split: self._generate_examples(
                concepts_by_code, [packages[STYLES[style][0]] for style in styles]
            )
            for split, styles in SPLITS.items()
        }

    def _generate_examples(
        self, concepts_by_code: dict[CodePoints, Concept], styles: list[dict[str, bytes]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        images_by_name = [item for style in styles for item in sorted(style.items())]
        for index, (name, data) in enumerate(images_by_name):
            concept = concepts_by_code.get(code_points(Path(name).stem))
            if concept is not None:
                yield index, {"image": _square(data), **concept._asdict()}
