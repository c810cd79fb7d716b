"""launch/setup.sh with stand-ins for Python: what it makes, installs, removes and leaves alone."""

import os
import pathlib
import shutil
import subprocess

import pytest

SETUP = pathlib.Path(__file__).parents[2] / "launch/setup.sh"

# An interpreter of version 3.MINOR, which writes down what it is asked to install. BROKEN makes
# environments as Debian's does without the package python3-venv: not whole, and an error.
STAND_IN = """#!/bin/bash
case "$1 $2" in
  "-c import sys; print"*) echo 3.MINOR ;;
  "-c import sys; sys.exit"*) [ MINOR -ge 11 ] ;;
  "-m venv")
    mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python"
    [ -z "${BROKEN:-}" ] ;;
  "-m pip")
    [ "$3" = --version ] || { echo "$@" >> installed; [ -z "${OFFLINE:-}" ]; } ;;
esac
"""


def interpreter(path, minor):
    path.write_text(STAND_IN.replace("MINOR", str(minor)))
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the script, next to a folder of commands, of which python3 is Python 3.12."""
    (tmp_path / "tree/launch").mkdir(parents=True)
    shutil.copy(SETUP, tmp_path / "tree/launch")
    (tmp_path / "tree/coca_jax").mkdir()
    for name in ("setup.py", "pyproject.toml", "coca_jax/__init__.py"):
        (tmp_path / "tree" / name).write_text("1")
    (tmp_path / "bin").mkdir()
    interpreter(tmp_path / "bin/python3", 12)
    return tmp_path / "tree"


def setup(checkout, code=0, **variables):
    """Runs the script; returns its output, and what was installed by this and earlier calls."""
    leave = ("PYTHON", "VENV", "EXTRAS", "CONSTRAINTS")
    environment = {key: value for key, value in os.environ.items() if key not in leave}
    path = f"{checkout.parent}/bin:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "source launch/setup.sh"],
        cwd=checkout,
        env=environment | {"PATH": path, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    log = checkout / "installed"
    return done.stdout + done.stderr, log.read_text().splitlines() if log.exists() else []


def test_a_folder_with_other_files_is_refused_and_stays(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/notes.txt").write_text("mine")
    out, _ = setup(checkout, 2, BROKEN="1")
    assert "is no environment, and not empty" in out
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("was", ["environment", "empty"])
def test_a_folder_that_was_there_is_not_removed(checkout, was):
    (checkout / ".venv").mkdir()
    if was == "environment":
        for name in ("pyvenv.cfg", "notes.txt"):
            (checkout / ".venv" / name).touch()
    setup(checkout, 2, BROKEN="1")
    assert (checkout / ".venv").is_dir()
    assert (checkout / ".venv/notes.txt").exists() == (was == "environment")


def test_half_an_environment_is_removed(checkout):
    setup(checkout, 2, BROKEN="1")
    assert not (checkout / ".venv").exists()


def test_the_environment_is_enough_without_python(checkout):
    interpreter(checkout.parent / "bin/python3", 10)
    interpreter(checkout.parent / "bin/python3.13", 13)
    assert "Python 3.10 is too old" in setup(checkout, 2)[0]
    setup(checkout, 1, PYTHON="python3.13", OFFLINE="1")
    assert (
        setup(checkout)[1]
        == ["-m pip install --quiet --disable-pip-version-check --editable ."] * 2
    )


def test_what_is_installed_is_not_installed_again(checkout):
    setup(checkout)
    assert len(setup(checkout)[1]) == 1
    assert setup(checkout, EXTRAS="dev")[1][1].endswith("--editable .[dev]")
    (checkout / "setup.py").write_text("2")
    assert len(setup(checkout, EXTRAS="dev")[1]) == 3
    packages = checkout / ".venv/lib/python3.12/site-packages/jax-0.1.dist-info"
    packages.mkdir(parents=True)  # installed by hand
    assert len(setup(checkout, EXTRAS="dev")[1]) == 4
    assert len(setup(checkout, EXTRAS="dev")[1]) == 4


def test_an_installation_that_failed_is_repeated(checkout):
    setup(checkout, 1, OFFLINE="1")
    assert len(setup(checkout)[1]) == 2
