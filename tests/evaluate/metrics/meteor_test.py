"""METEOR by programs that pass for Java; `challenges_test` has it by Java itself."""

import os
import signal
import time

import pytest

from coca_jax.evaluate.metrics import meteor
from coca_jax.evaluate.metrics.undefined import Undefined

pytestmark = pytest.mark.meteor
CAPTIONS, REFERENCES = ["a cat sits", "two dogs"], [["a cat is sitting"], ["two dogs", "dogs"]]


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Puts a program of that name on the PATH; it runs `body` for anything but -version."""

    def made(body, version="exit 0"):
        path = tmp_path / "java"
        path.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then {version}; fi\n{body}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(meteor, "STARTING", 0.5)
        monkeypatch.setattr(meteor, "ANSWERING", 0.5)
        return path

    return made


def reason():
    found = meteor.meteor(CAPTIONS, REFERENCES)
    assert isinstance(found, Undefined)
    return found.reason


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exit 0", "java ended with 0 and said: nothing"),
        ("echo 'no VM' >&2; exit 1", "java ended with 1 and said: no VM"),
        ("printf '\\033[2Jno\\377VM' >&2; exit 1", "said: \ufffd[2Jno\ufffdVM"),
        ("read line; kill -9 $$", "java ended with -9"),
        ("read line; echo 1.0 2.0; exit 3", "java ended with 3"),
        ("sleep 600", "java did not answer in 0.5 s"),
        ("sleep 600 & exec sleep 600", "java did not answer in 0.5 s"),
        ("exec 1>&-; exec sleep 600", "java closed its pipes and said: nothing"),
        ("exec cat", "java did not answer in 0.5 s"),
        ("exec yes 1", "METEOR of a known caption is 1.0"),
        ("exec yes nonsense", "no number: could not convert string to float: 'nonsense'"),
        ("exec cat /dev/zero", "no lines"),
        ("exec yes nan", "METEOR of a known caption is nan"),
    ],
)
def test_a_java_that_does_not_work(java, body, message):
    java(body)
    assert message in reason()


def test_a_java_that_is_too_slow_in_all(java, monkeypatch):
    monkeypatch.setattr(meteor, "SECONDS_A_CAPTION", 0.0)
    java("while true; do echo 1; sleep 0.05; done")  # each line is in time
    message = r"java gave \d+ of 1000 lines in 0\.5 s"
    with meteor._started(["java"]) as program, pytest.raises(meteor._NotWorking, match=message):
        program.ask(["a"], 1000)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("exit 1", "java ended with 1"),
        ("sleep 600", "java -version did not end in 0.5 s"),
        ("cat /dev/zero", "java -version did not end in 0.5 s"),
    ],
)
def test_a_java_that_cannot_say_its_version(java, version, message):
    java("exit 0", version)
    assert message in reason()


def test_what_is_no_program(java, tmp_path, monkeypatch):
    path = java("exit 0")
    path.write_bytes(b"\x7fELF nonsense")
    assert "Exec format error" in reason()
    monkeypatch.setenv("PATH", str(tmp_path))
    path.chmod(0o644)
    assert "there is no java on the PATH" in reason()
    path.unlink()
    path.mkdir()
    assert "there is no java on the PATH" in reason()


def test_the_programs_that_a_program_started_end_with_it(java, tmp_path):
    java(f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    reason()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not running(pid):
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("it goes on")


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_program_is_asked_and_in_which_locale(java, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setattr(meteor, "KNOWN", ("half \ud800 one", "a\n|||\0 café", 0.5))
    java(f'echo "$LC_ALL" > {tmp_path}/locale; exec tee {tmp_path}/asked')
    reason()
    assert (tmp_path / "locale").read_text() == "C\n"
    known = "SCORE ||| a café ||| half ? one"
    assert (tmp_path / "asked").read_text() == f"{known}\nEVAL ||| {known}\n"
