import subprocess

import pytest

from coca_jax.config import record

HASH = b"0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("output", "commit"),
    [
        (HASH + b"\n", HASH.decode()),
        (HASH + b"-dirty\n", f"{HASH.decode()}-dirty"),
        (b"\xff\xfe" + HASH, None),
        (b"warning: something\n", None),
        (b"", None),
    ],
)
def test_what_git_prints(output, commit, tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_bytes(b"#!/bin/sh\nprintf '" + output + b"'\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert record._commit() == commit


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("git"), PermissionError("git"), subprocess.TimeoutExpired("git", 10)],
)
def test_git_that_cannot_be_run(error, monkeypatch):
    def run(*arguments, **options):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert record._commit() is None
