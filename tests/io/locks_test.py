import errno
import subprocess
import sys
import threading

import pytest

from coca_jax.errors import UserError
from coca_jax.io import locks

HOLDER = """
import sys
from coca_jax.io.locks import locked
with locked(sys.argv[1], "trained"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_kept_from_other_processes_until_its_process_ends(tmp_path, capsys):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        message = f"run is being tested by process {holder.pid} on"
        with pytest.raises(UserError, match=message), locks.locked(tmp_path / "run", "tested"):
            raise AssertionError("two have it")
        threading.Timer(0.3, holder.kill).start()
        with locks.locked(tmp_path / "run", "tested", patience=60.0):
            pass
    assert f"by process {holder.pid} on" in (printed := capsys.readouterr().err)
    assert "waiting up to 60 s" in printed


def test_without_locks_nobody_is_kept_away(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.locked(tmp_path, "tested"), locks.locked(tmp_path, "tested"):
        pass
