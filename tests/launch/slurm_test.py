"""launch/slurm.sh on a real SLURM of this machine, which the test starts and ends."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason=f"needs root and the programs {', '.join(PROGRAMS)}",
    ),
]

SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={other_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""

# It waits to be asked to stop, saves and ends with 3; the second time it ends with 0.
PROGRAM = """
import os, pathlib, signal, sys, time
from coca_jax.distributed import processes
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
processes.start(60, 20)
processes.assert_same_on_all("config", {"a": 1})
import jax
me, count = jax.process_index(), jax.process_count()
again = int(os.environ.get("SLURM_RESTART_COUNT", 0))
print(f"here {me} of {count}, {jax.device_count()} devices, restart {again}", flush=True)
if again:
    processes.shutdown(0)
(pathlib.Path(sys.argv[-1]) / f"ready{me}").touch()
while not asked:
    time.sleep(0.1)
print(f"saved {me}", flush=True)
processes.shutdown(3)
"""


def free_ports():
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture
def slurm(monkeypatch):
    """The folder of a SLURM of one node; SLURM_CONF is set."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))  # short: it holds a socket
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    port, other_port = free_ports()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(SETTINGS.format(folder=folder, host=host, port=port, other_port=other_port))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    files = {"key": "key", "socket": "socket", "pid": "munged.pid", "log": "log", "seed": "seed"}
    flags = {"key": "key-file", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
    munge = [f"--{flags.get(key, key)}={folder / name}" for key, name in files.items()]
    servers = [
        subprocess.Popen(command)
        for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"])
        if not time.sleep(1)
    ]
    servers.append(subprocess.Popen(["slurmd", "-D"]))
    yield folder
    for server in reversed(servers):
        server.terminate()
        server.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.5)


def test_asked_to_stop_it_saves_and_is_requeued(slurm, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    python = tmp_path / "python"  # in place of `python -u -m coca_jax WORDS`
    python.write_text(f'#!/bin/bash\nshift 3\nexec {sys.executable} {tmp_path}/program.py "$@"\n')
    python.chmod(0o755)
    log = tmp_path / "log"
    settings = {"PYTHON": str(python), "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"}
    script = ["-n", "2", "-o", log, ROOT / "launch/slurm.sh", "train", "--workdir", tmp_path]
    job = subprocess.run(
        ["sbatch", "--parsable", *map(str, script)],
        env=os.environ | settings,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.strip()
    wait_until(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
    subprocess.run(["scancel", "--signal=TERM", job], check=True, timeout=60)
    wait_until(lambda: log.read_text().count("restart 1") >= 3)
    text = log.read_text()
    for i in range(2):
        assert f"{i}: here {i} of 2, 4 devices, restart 0" in text
        assert f"{i}: saved {i}" in text
        assert f"{i}: here {i} of 2, 4 devices, restart 1" in text
    assert "exit code 3: requeued, restart 1 of at most 100" in text
