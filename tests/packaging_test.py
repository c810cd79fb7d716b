"""What is published: the wheel is enough to work with, in an empty environment and folder."""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from coca_jax.config import packaged

ROOT = pathlib.Path(__file__).parents[1]
BIN = pathlib.Path(sys.executable).parent
DOCKERFILE = ROOT / "launch" / "Dockerfile"

# Arguments of `coca`, a call a line: trains, evaluates and uses a small model.
QUICKSTART = """
data prepare shapes
train --config shapes:smoke --workdir runs/x
evaluate --config shapes:smoke --workdir runs/x
report --workdir runs/x
caption --model runs/x images/a.png
search --model runs/x --images images red
"""


def call(*words, cwd=None, **variables):
    """Runs a command, which does not see this checkout; returns what it prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def copied(folder):
    """A copy of the working tree's files, without what builds and tests have left in it."""
    leave = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__")
    return shutil.copytree(ROOT, folder / "tree", ignore=leave)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, "-m", "build", "--outdir", folder / "dist", copied(folder))
    return folder / "dist"


@pytest.mark.slow
def test_the_files_are_whole(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "coca_jax").rglob("*") if path.is_file()]
    modules = {str(p.relative_to(ROOT)) for p in files if p.parent.name != "__pycache__"}
    configs = {f"coca_jax/configs/{name}.py" for name in packaged.names()}
    assert names >= modules | configs
    assert not [name for name in names if name.split("/")[0] not in ("coca_jax", wheel_info(wheel))]
    with tarfile.open(sdist) as file:
        contents = {name.partition("/")[2] for name in file.getnames()}
    assert contents >= {"SECURITY.md", "CHANGELOG.md", "CITATION.cff", "launch/quickstart.sh"}


def wheel_info(wheel):
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


@pytest.mark.slow
def test_the_wheel_is_enough(built, tmp_path):
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    (wheel,) = built.glob("*.whl")
    call(tmp_path / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    (work / "images").mkdir(parents=True)
    # One device: the smoke size has a small batch.
    variables = {"HOME": str(home), "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    Image.new("RGB", (40, 30), "red").save(work / "images" / "a.png")
    coca = tmp_path / "venv/bin/coca"
    lines = QUICKSTART.strip().splitlines()
    out = [call(coca, *line.split(), cwd=work, **variables) for line in lines]
    assert json.loads(out[4]).keys() >= {"path", "caption"}
    assert "a.png" in out[5]
    assert (work / "runs/x/report.html").stat().st_size > 10_000
    assert call(coca, "configs", cwd=work, **variables).count("\n") == len(packaged.names())


@pytest.mark.slow
def test_the_image_copies_what_the_package_needs(tmp_path):
    """Takes the place of an engine that builds the image: the same files, the same command."""
    text = DOCKERFILE.read_text()
    for words in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            into = tmp_path / target if (ROOT / source).is_dir() else tmp_path / target / source
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, into)
    call(BIN / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert "coca_jax/configs/shapes.py" in zipfile.ZipFile(wheel).namelist()
    if platform.machine() == "x86_64":  # there is no package of it elsewhere
        call(BIN / "hadolint", DOCKERFILE)


def test_versions_agree():
    (version,) = {  # one, if they are equal
        re.search(r'^__version__ = "(.+)"$', (ROOT / "coca_jax/__init__.py").read_text(), re.M)[1],
        re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1],
        re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1],
    }
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)


# Packages whose oldest version does not go with another one's oldest version, and which that is.
NEWER = {"fsspec": "gcsfs and s3fs", "hypothesis": "schemathesis", "schemathesis": "pytest"}


def test_the_oldest_versions_are_the_least_of_the_ranges():
    lines = (ROOT / "launch/oldest.txt").read_text().splitlines()
    pinned = {Requirement(line).name: line for line in lines if not line.startswith("#")}
    oldest = {canonicalize_name(name): Requirement(line) for name, line in pinned.items()}
    wanted = [Requirement(line) for line in requires("coca_jax")]
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": "dev"}):
            continue
        name = canonicalize_name(requirement.name)
        (version,) = oldest[name].specifier
        assert requirement.specifier.contains(version.version), (requirement, version)
        (least,) = (each.version for each in requirement.specifier if each.operator == ">=")
        least += "" if "." in least else ".0"  # a later patch will do, a later minor version not
        assert name in NEWER or f"{version.version}.".startswith(f"{least}."), (least, version)
