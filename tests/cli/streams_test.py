import io
import json
import math
import os
import subprocess
import sys

import pytest

from coca_jax.cli import streams

PROGRAM = """
import sys
from coca_jax.cli import streams
streams.protect()
for _ in range(3):
    print("é 猫 \\udcff ─█—")
    print("é", file=sys.stderr, flush=True)
    sys.stdout.flush()
streams.print_json({"path": "é\\udcff"})
with open(sys.argv[1], "w") as file:
    file.write(f"{streams.failure()} {streams.is_read()} {file.fileno() > 2}")
print("more")
"""


def run(redirection, tmp_path, **environment):
    """Runs a program that must exit with 0; returns the file it wrote and its two outputs."""
    command = f'"{sys.executable}" -c "$PROGRAM" {tmp_path}/left {redirection}'
    variables = os.environ | {"PROGRAM": PROGRAM} | environment
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=variables, capture_output=True
    )
    assert done.returncode == 0
    return (tmp_path / "left").read_text(), done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "left"),
    [
        ("", "None True True"),
        ("| true", "None False True"),
        (">/dev/full 2>/dev/full", "[Errno 28] No space left on device False True"),
        (">&- 2>&- <&-", "None True True"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_does_not_stop_the_work(
    redirection, left, unbuffered, tmp_path
):
    found, _, error = run(redirection, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert found == left and b"Error" not in error


def test_lines_are_in_a_file_when_they_are_printed_and_in_order(tmp_path):
    log = tmp_path / "log"
    program = """
import os, sys
from coca_jax.cli import streams
streams.protect()
print("a run")
print("its step", file=sys.stderr)
print("the next run")
os._exit(0)  # as SIGKILL, without a flush
"""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with log.open("w") as file:
        command = [sys.executable, "-c", program]
        subprocess.run(command, env=variables, stdout=file, stderr=file, check=True)
    assert log.read_text() == "a run\nits step\nthe next run\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_what_an_encoding_lacks_is_escaped(encoding, tmp_path):
    left, out, _ = run("", tmp_path, PYTHONIOENCODING=encoding)
    assert left == "None True True"
    *lines, line, more = out.decode(encoding).splitlines()
    expected = "é 猫 \\udcff ─█—"
    if not encoding.startswith("utf"):
        expected = "é 猫 \\udcff -#-".encode(encoding, "backslashreplace").decode(encoding)
    assert lines == [expected] * 3 and more == "more"
    assert line.isascii() and json.loads(line) == {"path": "é\udcff"}


def test_lines_of_json(capsys):
    value = {"text": "é\u2028\x85\n\x00", "nats": -math.inf, "others": [{"nats": math.nan}, 0.5]}
    streams.print_json(value)
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found == value | {"nats": None, "others": [{"nats": None}, 0.5]} and "é" in line


def test_streams_of_others_are_left_alone(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    streams.protect()
    assert sys.stdout is mine and streams.failure() is None and streams.is_read()
