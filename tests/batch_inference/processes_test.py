"""Real processes that are killed, stopped, or share a data set."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import broken_data
import cv2
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SHARDS = 8
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(small_run, tmp_path_factory):
    """The command but for its output; in a shard of images one cannot be decoded."""
    folder = tmp_path_factory.mktemp("tars")
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        pngs = [
            cv2.imencode(".png", rng.integers(256, size=(40, 40, 3), dtype=np.uint8))[1].tobytes()
            for _ in range(40)
        ]
        pngs[shard] = b"\x89PNG cut"
        broken_data.write_tar(folder / f"{shard:05}.tar", [{"png": p, "txt": b"a"} for p in pngs])
    return ["caption", "--model", str(small_run), "--data", str(folder), "--keep"]


def start(command, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, cwd=ROOT, stderr=subprocess.PIPE, **options
    )


def ended(command):
    process = start(command)
    errors = process.communicate(timeout=300)[1]
    return process.returncode, errors.decode()


def contents(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    code, errors = ended(["-m", "coca_jax", *words, "--output", str(folder)])
    assert code == 5 and f"{SHARDS} of {40 * SHARDS} records have no result" in errors
    return contents(folder)


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 3)])
def test_a_run_that_is_ended_again_and_again_writes_the_same_files(
    words, whole, tmp_path, number, code
):
    command = ["-m", "coca_jax", *words, "--output", str(tmp_path / "out")]
    done = tmp_path / "out/_done"
    for _ in range(3):
        before = len(list(done.glob("*.json")))
        process = start(command)
        while process.poll() is None and len(list(done.glob("*.json"))) < before + 2:
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        process.communicate(timeout=300)
        # It may have written all files, or even have ended, before the signal came.
        assert process.returncode in (code, 5, -number)
    assert ended(command)[0] == 5
    result = contents(tmp_path / "out")
    temporaries = {name for name in result if "/." in f"/{name}"}
    assert {n: c for n, c in result.items() if n not in temporaries} == whole
    assert len(temporaries) <= 3 * (number == signal.SIGKILL)


def test_the_processes_of_a_run_share_the_shards(words, whole, tmp_path):
    launch = [
        "launch/local.py",
        "--processes",
        "2",
        "--devices",
        "1",
        "--logs",
        str(tmp_path / "l"),
    ]
    code, _ = ended([*launch, "--", *words, "--output", str(tmp_path / "out")])
    assert code == 5
    assert contents(tmp_path / "out") == whole
