import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from coca_jax.data.sources.tfds import tfds_source
from coca_jax.data_tools.prepare import prepare
from coca_jax.datasets import emoji
from coca_jax.errors import UserError

NAMES = [
    {
        "label": "grinning face",
        "hexcode": "1F600",
        "group": 0,
        "tags": ["cheerful", "face", "grin", "happy", "nice", "smile"],
        "skins": [],
    },
    {"label": "raised hand", "hexcode": "270B", "group": 1},
    {"label": "keycap: #", "hexcode": "0023-FE0F-20E3", "group": 8, "tags": ["keycap"]},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]
COLORS = {"google": (255, 0, 0), "fluent": (0, 255, 0), "twitter": (0, 0, 255)}


def write_tarball(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def drawing(color, kind, side):
    """Opaque on its left, transparent on its right."""
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[:, : side // 2] = (*color, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Tarballs like those on npm, in place of the network."""
    package, path = emoji.NAMES
    contents = {package: {path: json.dumps(NAMES).encode(), "package/de/data.json": b"[]"}}
    for style, (package, folder) in emoji.STYLES.items():
        kind = "webp" if style == "fluent" else "png"
        image = drawing(COLORS[style], kind, 128 if style == "fluent" else 64)
        stems = ("0023-fe0f-20e3", "1f1e6", "1f600", "270b", "270b-1f3fb")
        contents[package] = {f"{folder}/{stem}.{kind}": image for stem in stems}
        contents[package]["package/img/google/sheets/64.png"] = b"a sheet"
    for package, files in contents.items():
        write_tarball(tmp_path / f"{package.replace('/', '-')}.tgz", files)
    monkeypatch.setattr(emoji, "fetch", lambda p, _: tmp_path / f"{p.replace('/', '-')}.tgz")
    monkeypatch.setattr(emoji.Emoji, "tokenizer_vocab_size", 300)
    return tmp_path


def test_styles_become_splits(packages, tmp_path):
    prepare("emoji", str(tmp_path / "tfds"))
    shown = {}
    for split in ("train", "test"):
        source = tfds_source("emoji", split, str(tmp_path / "tfds"))
        records = [source[i] for i in range(len(source))]
        shown[split] = [(r["captions"][0], r["label"], r["image"]) for r in records]
    names = [("keycap: #", 8), ("grinning face", 0), ("raised hand", 1)]
    assert [row[:2] for row in shown["train"]] == names * 2  # no parts of flags, no skin tones
    assert [row[:2] for row in shown["test"]] == names
    for row, style in zip(shown["train"][::3] + shown["test"][:1], COLORS, strict=True):
        pixels = np.array(Image.open(io.BytesIO(row[2])))
        assert pixels.shape == (64, 64, 3) and row[2].startswith(b"\x89PNG")
        assert tuple(pixels[5, 5]) == COLORS[style] and tuple(pixels[5, 60]) == (255, 255, 255)
    assert source.class_names[8] == "symbols"


def test_captions_begin_with_the_name_and_are_readable():
    known = emoji.concepts(json.dumps(NAMES).encode())
    assert known[0x1F600,].captions == [
        "grinning face",
        "an emoji: grinning face",
        "grinning face, from smileys and emotion",
        "grinning face (cheerful, grin, happy, nice)",
    ]
    assert known[0x23, 0x20E3].captions[-1] == "keycap: #, from symbols"  # "keycap" says nothing


def test_a_package_without_the_files_is_named(packages):
    write_tarball(packages / "other.tgz", {"package/readme": b""})
    with pytest.raises(UserError, match=r"other\.tgz holds no package/assets"):
        emoji.read_package(packages / "other.tgz", "package/assets")


def test_missing_npm_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"install Node\.js"):
        prepare("emoji", str(tmp_path))
    assert not list(tmp_path.rglob("*.json"))


def test_failing_npm_says_why(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(emoji.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match="`npm pack a@1` failed: no network"):
        emoji.fetch("a@1", tmp_path)


def test_fetch_returns_the_tarball_that_npm_names(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho "$@" > "$5/call"\necho a-1.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setattr(emoji.shutil, "which", lambda name: str(npm))
    assert emoji.fetch("a@1", tmp_path) == tmp_path / "a-1.tgz"
    assert (tmp_path / "call").read_text().split()[:3] == ["pack", "--silent", "a@1"]
