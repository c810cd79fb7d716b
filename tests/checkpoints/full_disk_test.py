"""Checkpoints on a file system that is really full: one message, nothing left, nothing printed."""

import ctypes
import os
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from coca_jax.checkpoints import CheckpointStore
from coca_jax.errors import UserError

SIZE, ARRAYS = 640 << 10, 8  # bytes; a step takes some 260 KiB


@pytest.fixture
def small(tmp_path):
    """A folder on a file system of `SIZE` bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "small"
    folder.mkdir()
    options = f"size={SIZE}".encode()
    if os.geteuid() or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options):
        pytest.skip("only root can mount a small file system")
    yield folder
    libc.umount2(os.fsencode(folder), 2)  # whoever still looks at it


def items(step):
    noise = np.random.default_rng(step).integers(0, 1 << 30, (ARRAYS, 1 << 13))
    return {"params": {str(i): jnp.asarray(row, jnp.int32) for i, row in enumerate(noise)}}


def test_a_save_that_finds_no_room_is_one_message(small, capfd):
    with CheckpointStore(small / "checkpoints", keep=9) as store:
        for step in range(1, 9):
            try:
                store.save(step, items(step), {})
                store.wait()
            except UserError as error:
                message = str(error)
                break
        assert step == 3 and store.latest_valid() == 2
        assert re.match(r".*/checkpoints/3 could not be saved \(", message)
        assert "No space left" in message and message.endswith("; the last good one is step 2")
        assert sorted(os.listdir(small / "checkpoints")) == ["1", "2"]
        # What fills the disk goes, and the same run goes on.
        shutil.rmtree(small / "checkpoints/1")
        store.keep = 1
        store.save(4, {"params": {"x": jnp.ones(3)}}, {})
        store.wait()
        assert os.listdir(small / "checkpoints") == ["4"]
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out and said.err.strip() == ""
