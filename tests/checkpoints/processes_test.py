"""Two processes, one directory: they save, fail, and restore together."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from coca_jax.checkpoints import processes, store
from coca_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from coca_jax.checkpoints import CheckpointStore, manifest
from coca_jax.errors import UserError

rank, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
answers = open(sys.argv[4], "w")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
values = np.arange(64, dtype=np.float32).reshape(8, 8)

def params(step):
    sharding = NamedSharding(mesh, P("data"))
    return {"x": jax.make_array_from_callback((8, 8), sharding, lambda i: (values + step)[i])}

def full(folder):
    raise OSError(28, "No space left on device")

with CheckpointStore(directory, keep=2) as store:
    for step in (1, 2, 3):
        store.save(step, {"params": params(step)}, {"examples_seen": step})
    print(store.latest_valid(), store.metadata(3), file=answers)
    sharding = NamedSharding(mesh, P(None, "data"))
    target = {"x": jax.ShapeDtypeStruct((8, 8), np.float32, sharding=sharding)}
    restored = store.restore(3, {"params": target})["params"]["x"]
    for shard in restored.addressable_shards:
        np.testing.assert_array_equal(shard.data, (values + 3)[shard.index])
    write = manifest.write
    if rank == 0:
        manifest.write = full
    store.save(4, {"params": params(4)}, {})
    try:
        store.wait()
    except UserError as error:
        print("another process" in str(error), str(error).endswith("is step 3"), file=answers)
    if rank == 0:
        with open(f"{directory}/3/layout.json", "a") as file:
            file.write(" ")
    manifest.write = write
    print(store.latest_valid(report=lambda line: None), file=answers)
    try:
        store.metadata(3)
    except UserError as error:
        print("3 is not valid" in str(error), file=answers)
    if rank == 0:
        store._prepare = lambda: full(directory)
    try:
        store.save(5, {"params": params(5)}, {})
    except UserError as error:
        print("5 could not be saved" in str(error), file=answers)
try:
    with CheckpointStore(directory) as store:
        store.save(6, {"params": params(6)}, {})
        if rank == 1:
            multihost_utils.sync_global_devices("after the save")
        raise RuntimeError("one process fails while a save is under way")
except RuntimeError:
    if rank == 0:
        multihost_utils.sync_global_devices("after the save")
jax.distributed.shutdown()
"""


@pytest.mark.parametrize("failed", [False, True])
def test_the_others_hear_what_came_of_the_first_ones_action(monkeypatch, failed):
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    answer = np.array([7, failed])
    monkeypatch.setattr(processes.multihost_utils, "broadcast_one_to_all", lambda _: answer)
    done = []
    if failed:
        with pytest.raises(UserError, match="process 0 failed"):
            processes.by_first(lambda: done.append(1))
    else:
        assert processes.by_first(lambda: done.append(1)) == 7
    assert not done


def test_one_that_cannot_start_a_save_asks_the_others_nothing(monkeypatch, tmp_path):
    """They wait for it within Orbax, and learn that it has ended."""

    def fail(*_, **__):
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(store.jax, "process_count", lambda: 2)
    monkeypatch.setattr(store, "by_first", lambda action: action() or 0)
    monkeypatch.setattr(store, "_orbax", lambda: mock.Mock(save_checkpointables_async=fail))
    monkeypatch.setattr(store.CheckpointStore, "latest_valid", None)
    with (
        store.CheckpointStore(tmp_path) as checkpoints,
        pytest.raises(UserError, match=r"/3 could not be saved \(no room for a copy\)$"),
    ):
        checkpoints.save(3, {"params": {"x": np.zeros(3)}}, {})


def test_two_processes_agree(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not by standard output: Gloo writes its own lines into the middle of ours.
    folder, answers = tmp_path / "store", [tmp_path / f"answers{rank}" for rank in range(2)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(port), str(folder), str(answer)],
            env=environment,
        )
        for rank, answer in enumerate(answers)
    ]
    try:
        codes = [process.wait(timeout=100) for process in children]
    finally:
        for process in children:
            process.kill()
    assert codes == [0, 0]
    for rank, answer in enumerate(answers):
        said = answer.read_text().splitlines()
        assert said == ["3 {'examples_seen': 3}", f"{rank == 1} True", "2", "True", "True"]
    assert sorted(path.name for path in folder.iterdir()) == ["2", "6"]
