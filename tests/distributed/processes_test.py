"""Start-up, agreement and loss of processes, with real ones."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from coca_jax.distributed import launchers, processes, rendezvous
from coca_jax.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
SCRIPT = """
import os, sys, time
from coca_jax.errors import UserError
from coca_jax.distributed import processes

start, heartbeat, code, linger, size = map(float, sys.argv[1:])
try:
    processes.start(int(start), int(heartbeat))
    processes.start(int(start), int(heartbeat))
    config = {"train": {"batch_size": int(size), "steps": 5}, "name": "x"}
    processes.assert_same_on_all("config", config)
    import jax, jax.numpy as jnp
    from jax.experimental.multihost_utils import process_allgather
    total = process_allgather(jnp.float32(10 ** jax.process_index())).sum()
    print(f"sum {total}", flush=True)  # in one write: Gloo's own lines come between two
    print("ready", jax.process_count(), jax.device_count(), flush=True)
    if code == 7:
        raise ValueError("the sky fell")
    time.sleep(linger)
except UserError as error:
    print("user error:", error, flush=True)
    processes.shutdown(2)
processes.shutdown(int(code))
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Run:
    """Some processes of a run of `count`, each with its own arguments."""

    def __init__(self, folder, count, port=None, **environment):
        self.folder, self.children = folder, {}
        address = f"127.0.0.1:{port or free_port()}"
        self.environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_COORDINATOR_BIND_ADDRESS": address,
            "COCA_COORDINATOR": address,
            "COCA_PROCESSES": str(count),
            **environment,
        }

    def start(self, process, start=20, heartbeat=10, code=0, linger=0, size=8):
        environment = self.environment | {"COCA_PROCESS": str(process)}
        arguments = [str(a) for a in (start, heartbeat, code, linger, size)]
        with (self.folder / str(process)).open("w") as log:
            self.children[process] = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def text(self, process):
        return (self.folder / str(process)).read_text()

    def codes(self, seconds=60):
        return {i: child.wait(seconds) for i, child in self.children.items()}

    def wait_for(self, word):
        until = time.monotonic() + 60
        while not all(word in self.text(i) for i in self.children):
            assert time.monotonic() < until, [self.text(i) for i in self.children]
            time.sleep(0.05)


@pytest.fixture
def run(tmp_path):
    made = []

    def make(count, **settings):
        made.append(Run(tmp_path, count, **settings))
        return made[-1]

    yield make
    for each in made:
        for child in each.children.values():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()


def test_alone(monkeypatch):
    for key in (*launchers.EXPLICIT, "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    processes.start(1, 1)
    processes.assert_same_on_all("config", {"a": 1})
    assert not processes.is_distributed()


@pytest.mark.parametrize("count", [2, 3])
def test_all_start_and_agree(run, count):
    group = run(count)
    for i in range(count):
        group.start(i)
    assert set(group.codes().values()) == {0}, [group.text(i) for i in range(count)]
    for i in range(count):
        assert f"ready {count} {2 * count}" in group.text(i)
        assert f"sum {sum(10.0**k for k in range(count))}" in group.text(i)


def test_a_difference_is_refused_by_all(run):
    group = run(3)
    for i in range(3):
        group.start(i, size=64 if i == 2 else 8)
    assert group.codes() == {0: 2, 1: 2, 2: 2}
    said = "process 2 differs from process 0: config.train.batch_size=64 instead of 8\n"
    for i in range(3):
        assert said in group.text(i)
        assert "steps" not in group.text(i)


def test_the_missing_is_named(run):
    group = run(3)
    began = time.monotonic()
    for i in (0, 2):
        group.start(i, start=4)
    assert group.codes() == {0: 2, 2: 2}
    assert time.monotonic() - began < 10
    for i in (0, 2):
        assert "user error: 2 of 3 processes are here; missing: 1 after 4 s" in group.text(i)
    assert "coca: 2 of 3 processes are here; missing: 1\n" in group.text(0)  # while it waits


def test_no_coordinator(run):
    group = run(2)
    group.start(1, start=2)
    assert group.codes() == {1: 2}
    address = group.environment["COCA_COORDINATOR"]
    assert f"(process 0) at {address} did not answer process 1 within 2 s" in group.text(1)


def test_port_in_use(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        group = run(2, port=port)
        group.start(0, start=3)
        assert group.codes() == {0: 2}
    assert f"port {port} at 127.0.0.1" in group.text(0) and "is in use" in group.text(0)


def test_a_number_taken_twice(run):
    group = run(3)
    group.start(0)
    group.start(1)
    other = Run(group.folder / "other", 3)
    other.folder.mkdir()
    other.environment = group.environment
    other.start(1)
    assert {**group.codes(), "other": other.codes()[1]} == {0: 2, 1: 2, "other": 2}
    assert "process number 1" in group.text(0) and "is not free" in other.text(1)


def test_a_process_that_is_started_again_takes_its_place():
    connections, names = {}, {0: "first"}
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))

        def say_hello(name):
            peer = opened.enter_context(socket.create_connection(listener.getsockname()))
            rendezvous.Connection(peer).send(hello=1, count=3, name=name)
            here = opened.enter_context(listener.accept()[0])
            rendezvous._admit(rendezvous.Connection(here), connections, names, 3)
            return peer

        say_hello("killed").close()
        say_hello("started again")
        assert names == {0: "first", 1: "started again"}
        with pytest.raises(UserError, match=r"process number 1 .third. is not free: started again"):
            say_hello("third")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_ends_the_others(run, victim):
    group = run(3)
    for i in range(3):
        group.start(i, linger=60)
    group.wait_for("ready")
    began = time.monotonic()
    group.children[victim].kill()
    codes = group.codes()
    assert time.monotonic() - began < 5
    pid = group.children[victim].pid
    for i in {0, 1, 2} - {victim}:
        # Where the coordinator has gone, JAX's own abort may come first with the exit code.
        assert codes[i] == 4 or (victim == 0 and codes[i] == -signal.SIGABRT), group.text(i)
        assert f"coca: process {victim} (" in group.text(i)
        assert f"pid {pid}) died" in group.text(i)


@pytest.mark.slow
def test_a_stopped_process_is_lost(run):
    group = run(3)
    for i in range(3):
        group.start(i, heartbeat=5, linger=60)
    group.wait_for("ready")
    began = time.monotonic()
    group.children[1].send_signal(signal.SIGSTOP)
    codes = {i: group.children[i].wait(30) for i in (0, 2)}
    assert codes == {0: 4, 2: 4} and 3 < time.monotonic() - began < 20
    for i in (0, 2):
        assert "process 1 (" in group.text(i) and "lost contact: silent for 5 s" in group.text(i)


def test_an_exception_is_told_to_all(run):
    group = run(2)
    group.start(0, linger=60)
    group.start(1, code=7)
    assert group.codes() == {0: 4, 1: 1}
    assert "Traceback" in group.text(1) and "ValueError: the sky fell" in group.text(1)
    assert "failed: ValueError: the sky fell" in group.text(0)


@pytest.mark.slow
def test_one_that_left_ends_the_others(run):
    group = run(2)
    group.start(0, heartbeat=4, linger=60)
    group.start(1, heartbeat=4, code=2)
    assert group.codes() == {0: 4, 1: 2}
    assert "left with exit code 2" in group.text(0)


def test_differences_are_cut_short():
    texts = ['{"a": 1}', '{"a": 2, "b": 3}', '{"a": 1}']
    assert processes._differences(texts) == [
        "process 1 differs from process 0: a=2 instead of 1",
        "process 1 differs from process 0: b=3 instead of absent",
    ]
    assert processes._differences(texts, most=1)[1] == "... 1 more"


@pytest.mark.parametrize(
    "environment, place, devices",
    [
        ({}, (0, 1), None),
        (SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "3"}, (1, 2), "3"),
        (
            {"COCA_COORDINATOR": "h:1", "COCA_PROCESSES": "5", "COCA_PROCESS": "4"},
            (4, 5),
            None,
        ),
    ],
)
def test_processes_that_share_work_need_not_be_connected(monkeypatch, environment, place, devices):
    for key in (*launchers.EXPLICIT, *SLURM, "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(jax.distributed, "initialize", None)  # a call would fail
    changes = {}
    monkeypatch.setattr(jax.config, "update", changes.__setitem__)
    assert processes.place_of_its_own() == place
    assert not processes.is_distributed()
    names = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")
    assert changes == ({} if devices is None else dict.fromkeys(names, devices))
