"""A save that is killed or runs out of disk never costs the step before; real processes."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.checkpoints import CheckpointStore, manifest
from coca_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# Saves steps 1, 2, ... whose values are the step's number, and says what it has done.
SAVING = """
import os, resource, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from coca_jax.checkpoints import CheckpointStore, manifest, store as store_module
from coca_jax.errors import UserError

directory = sys.argv[1]

noise = np.random.default_rng(0).integers(0, 1 << 30, 1 << 22).astype(np.int32)

def items(step):
    return {"params": {"step": jnp.int32(step), "noise": jnp.asarray(noise + step)}}

def say(*words):
    print(*words, flush=True)

def die(*ignored, **also_ignored):
    os.kill(os.getpid(), signal.SIGKILL)

store = CheckpointStore(directory, keep=1)
store.save(1, items(1), {})
store.wait()
say("valid", 1)
"""

SAVE_ON_AND_ON = """
for step in range(2, 1000):
    store.save(step, items(step), {})
    say("saving", step)
    store.wait()
    say("valid", step)
"""

DIE_BEFORE_THE_MANIFEST = "manifest.write = die\n" + SAVE_ON_AND_ON
DIE_BEFORE_ITS_RENAME = "Path.replace = die\n" + SAVE_ON_AND_ON
DIE_WHILE_REMOVING_THE_OLD = (
    """
def remove_one_file_and_die(folder, **ignored):
    next(path for path in Path(folder).rglob("*") if path.is_file()).unlink()
    die()
store_module.folders.shutil.rmtree = remove_one_file_and_die
"""
    + SAVE_ON_AND_ON
)


def start(script: str, directory: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SAVING + script, str(directory)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def restore_step(directory: Path, step: int) -> int:
    """Restores a step whole and gives the number that was saved in it."""
    store = CheckpointStore(directory)
    target = {"step": jax.ShapeDtypeStruct((), jnp.int32)}
    target["noise"] = jax.ShapeDtypeStruct((1 << 22,), jnp.int32)
    params = store.restore(step, {"params": target})["params"]
    expected = np.random.default_rng(0).integers(0, 1 << 30, 1 << 22) + step
    np.testing.assert_array_equal(params["noise"], expected)
    return int(params["step"])


def assert_usable(directory: Path, at_least: int) -> list[str]:
    """Checks that a step not older than `at_least` is valid and that a run can go on from it."""
    lines = []
    with CheckpointStore(directory, keep=1) as store:
        latest = store.latest_valid(lines.append)
        assert latest is not None and latest >= at_least
        assert restore_step(directory, latest) == latest
        store.save(latest + 1, {"params": {"x": jnp.ones(3)}}, {})
        store.wait()
        assert store.latest_valid() == latest + 1
    assert [folder.name for folder in directory.iterdir()] == [str(latest + 1)]
    return lines


def test_sigkill_in_the_middle_of_saves(tmp_path):
    hits = 0
    for attempt in range(12):
        directory = tmp_path / str(attempt)
        with start(SAVE_ON_AND_ON, directory) as process:
            while process.stdout.readline() != "saving 2\n":
                assert process.poll() is None
            time.sleep(0.05 * attempt)
            process.kill()
            said = [line.split() for line in process.stdout.read().splitlines()]
        last = max([int(step) for word, step in said if word == "valid"], default=1)
        hits += bool(assert_usable(directory, at_least=last))
        if hits == 3:
            return
    assert hits > 0


@pytest.mark.parametrize(
    "script, valid, invalid",
    [
        (DIE_BEFORE_THE_MANIFEST, 1, "2 is not valid: no manifest.json"),
        (DIE_BEFORE_ITS_RENAME, 1, "2 is not valid: no manifest.json"),
        (DIE_WHILE_REMOVING_THE_OLD, 2, None),
    ],
)
def test_sigkill_at_each_later_stage(script, valid, invalid, tmp_path):
    with start(script, tmp_path) as process:
        process.communicate(timeout=60)
    assert process.returncode == -9
    lines = []
    assert CheckpointStore(tmp_path).latest_valid(lines.append) == valid
    assert (invalid is None) == (not lines) and (invalid is None or invalid in lines[0])
    assert_usable(tmp_path, at_least=valid)


FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
store.save(2, items(2), {})
try:
    store.save(3, items(3), {})
except UserError as error:
    say(error)
say(sorted(os.listdir(directory)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
store.save(3, items(3), {})
store.close()
say("valid", store.latest_valid())
"""


def test_a_full_disk_costs_only_the_save_that_met_it(tmp_path):
    with start(FULL_DISK, tmp_path) as process:
        process.wait(timeout=60)
        said = process.stdout.read().splitlines()
    assert said[0] == "valid 1"
    assert said[1].startswith(f"checkpoint {tmp_path / '2'} could not be saved (")
    assert "File too large" in said[1]
    assert said[1].endswith("; the last good one is step 1")
    assert said[2:] == ["['1']", "valid 3"]
    assert restore_step(tmp_path, 3) == 3


def test_no_room_for_the_manifest(tmp_path, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    items = {"params": {"x": jnp.ones(3)}}
    store = CheckpointStore(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        store.save(1, items, {})
        with pytest.raises(
            UserError, match=r"No space left on device\); there is no good checkpoi"
        ):
            store.wait()
        assert list(tmp_path.iterdir()) == []
    store.save(2, items, {})
    store.wait()
    monkeypatch.setattr(manifest, "write", full)
    store.save(3, items, {})
    with pytest.raises(UserError, match=r"/3 could .*No space left on device.* is step 2"):
        store.close()
    assert [folder.name for folder in tmp_path.iterdir()] == ["2"]
    assert store.latest_valid() == 2


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/1 could not be saved .*[Nn]ot a directory"):
        CheckpointStore(tmp_path / "file" / "x").save(1, {"params": {"x": jnp.ones(3)}}, {})
