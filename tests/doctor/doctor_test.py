"""`coca doctor` in environments that are broken for real."""

import ast
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

from coca_jax.doctor import (
    State,
    devices,
    environment,
    examination,
    images,
    machine,
    packages,
    places,
)


@contextlib.contextmanager
def within(seconds):
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def only(findings):
    [finding] = findings
    return finding


def fake_java(folder, body):
    (folder / "java").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "java").chmod(0o755)


def test_a_broken_environment_is_described_and_the_exit_code_is_2(tmp_path):
    (tmp_path / "file").touch()
    fake_java(tmp_path, "exit 3")
    variables = {
        **{"JAX_PLATFORMS": "abacus", "SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "4"},
        **{"AWS_ACCESS_KEY_ID": "secret-id", "AWS_SECRET_ACCESS_KEY": "secret-key"},
        **{"GOOGLE_APPLICATION_CREDENTIALS": "/no/key.json"},
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
    }
    command = [sys.executable, "-m", "coca_jax", "doctor", "--workdir", str(tmp_path / "file/run")]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "out.json")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    rows = json.loads((tmp_path / "out.json").read_text())["findings"]
    broken = {row["name"]: row for row in rows if row["state"] == "problem"}
    expected = ["devices", "workdir", "compiled programs", "processes", "java", "gs://"]
    assert [name for name in broken if name != "memory"] == expected
    assert done.stderr.startswith("coca doctor: something is broken: ")
    assert "abacus" in broken["devices"]["text"]
    assert "JAX_PLATFORMS=abacus" in broken["devices"]["fix"]
    assert "cannot be written: Not a directory" in broken["workdir"]["text"]
    assert "SLURM_PROCID" in broken["processes"]["text"]
    assert broken["java"]["text"].endswith("ends with 3")
    assert "credentials in AWS_ACCESS_KEY_ID" in done.stdout and "secret" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "->" not in line] == [r["state"] for r in rows]


def test_devices_that_work(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    finding = only(devices.devices())
    assert finding.state == State.OK and finding.text == "3 x cpu (cpu); a matmul is right"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('[1, "cpu", "cpu", true, 0]', "there is a GPU, which JAX does not see"),
        ('[1, "gpu", "H200", false, 8589934592]', "8 GiB for programs): a matmul gives a wrong"),
    ],
)
def test_devices_that_work_badly(monkeypatch, tmp_path, answer, words):
    (tmp_path / "nvidia0").touch()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(devices, "GPUS", (f"{tmp_path}/nvidia[0-9]*",))
    monkeypatch.setattr(devices, "_CODE", f"print('''{answer}''')")
    finding = only(devices.devices())
    assert finding.state == State.PROBLEM and words in finding.text


def test_devices_that_another_process_holds(monkeypatch, tmp_path):
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    monkeypatch.setattr(devices, "_CODE", f"{code}; time.sleep(100)")
    monkeypatch.setattr(devices, "SECONDS", 1.0)
    with within(20):
        finding = only(devices.devices())
    assert finding.state == State.PROBLEM and "does not answer within 1 seconds" in finding.text
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")


def test_an_interrupted_examination_leaves_no_process(monkeypatch, tmp_path):
    file = tmp_path / "pid"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    monkeypatch.setattr(devices, "_CODE", code)

    def interrupt():
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # A shell starts what runs in its background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with within(20), pytest.raises(KeyboardInterrupt):
            examination.examine(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{file.read_text()}"):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_check_that_hangs_or_raises_is_a_problem():
    with within(5):
        hanging = only(examination._bounded("disk", lambda: time.sleep(60), 0.1))
    assert hanging.state == State.PROBLEM and "does not answer" in hanging.text

    def broken():
        raise OSError("no\nroom")

    assert only(examination._bounded("disk", broken, 5.0)).text == "OSError: no room"


def test_packages_that_are_hidden(monkeypatch):
    requires = ["optax>=0.2", "no_such_package>=3", "numpy<1", 'wandb-none>=1; extra == "wandb"']
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda name: requires)
    finding = next(f for f in packages.versions() if f.name == "packages")
    assert finding.state == State.PROBLEM and "optax" not in finding.text
    assert "no_such_package is missing; numpy" in finding.text and "is not <1" in finding.text
    assert finding.fix == 'pip install "no_such_package>=3" "numpy<1"'
    extra = next(f for f in packages.extras() if f.name == "extra wandb")
    assert extra.state == State.OFF and extra.fix == 'pip install "coca_jax[wandb]"'


def test_every_extra_of_users_is_examined():
    tree = ast.parse(pathlib.Path(__file__).parents[2].joinpath("setup.py").read_text())
    named = next(n.value for n in tree.body if isinstance(n, ast.Assign) and "EXTRAS" in names(n))
    given = next(n.value for n in ast.walk(tree) if getattr(n, "arg", "") == "extras_require")
    extras = {key.value for node in (named, given) for key in node.keys if key}
    assert extras - {"dev", "docs"} == packages.EXTRAS.keys()


def names(assignment):
    return [target.id for target in assignment.targets]


def test_decoders(monkeypatch):
    assert [f.state for f in images.decoders()] == [State.OK] * 3
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setattr(images, "_pillow", lambda data: images._opencv(data)[..., ::-1])
    assert [f.state for f in images.decoders()] == [State.PROBLEM, State.OK, State.PROBLEM]


def test_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(environment.java()).state == State.OFF
    fake_java(tmp_path, "echo 'version 17' >&2")
    assert only(environment.java()).text == "version 17, for METEOR"
    fake_java(tmp_path, "exec /bin/sleep 100")
    monkeypatch.setattr(environment, "JAVA_SECONDS", 0.2)
    with within(10):
        assert "does not answer" in only(environment.java()).text


def test_places(monkeypatch, tmp_path):
    finding = only(places._place("workdir", lambda: tmp_path / "a/b", 1))
    assert finding.state == State.OK and "a/b (not made yet)" in finding.text
    assert not any(tmp_path.iterdir())
    finding = only(places._place("temporary files", lambda: tmp_path, 1 << 60))
    assert finding.state == State.PROBLEM and finding.fix.endswith("set TMPDIR")
    assert only(places._place("workdir", lambda: "gs://bucket/run", 1)).state == State.OFF


@pytest.mark.parametrize("folder", ["runs", "runs/a"])
def test_a_link_to_a_disk_that_is_not_mounted_is_a_problem(folder, tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    finding = only(places._place("workdir", lambda: tmp_path / folder, 1))
    assert finding.state == State.PROBLEM
    assert finding.text == f"{tmp_path}/runs is a link to {tmp_path}/disk, which is not there"
    assert finding.fix == f"mount or make {tmp_path}/disk, or choose another --workdir"


@pytest.mark.parametrize(
    ("used", "cached", "state"), [(15.5, 14.9, State.OK), (15.5, 0.1, State.PROBLEM)]
)
def test_cached_files_of_a_container_are_free_memory(used, cached, state, tmp_path, monkeypatch):
    gib = {"memory.max": 16, "memory.current": used}
    content = {name: f"{int(size * 2**30)}\n" for name, size in gib.items()}
    content["memory.stat"] = f"anon 1\ninactive_file {int(cached * 2**30)}\nactive_file 2\n"
    content["cpu.max"] = "50000 100000\n"
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    real = machine._read
    host = f"MemTotal: {64 << 20} kB\nMemAvailable: {32 << 20} kB\n"
    monkeypatch.setattr(machine, "_read", lambda p: host if p == "/proc/meminfo" else real(p))
    cores, memory = machine.machine()
    assert cores.text == "0.5" and memory.state == state
    assert memory.text == f"{16 - used + cached:.1f} of 16.0 GiB are free"


def test_places_of_a_broken_or_small_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "gs://x")
    monkeypatch.setattr(places, "SHARED", str(tmp_path / "shm"))
    checks = dict(places.checks(tmp_path / "runs/a"))
    assert "shared memory" not in checks
    cache = only(checks["cache"]())
    assert cache.text == "gs://x/coca_jax/: a cache must be a local folder"
    assert (cache.state, cache.fix) == (State.PROBLEM, "set XDG_CACHE_HOME")
    (tmp_path / "shm").mkdir()
    usage = types.SimpleNamespace(free=64 << 20)  # Docker's default
    monkeypatch.setattr(places.shutil, "disk_usage", lambda folder: usage)
    shared = only(dict(places.checks(tmp_path))["shared memory"]())
    assert shared.state == State.PROBLEM and "--shm-size" in shared.fix


def test_the_folder_of_compiled_programs_is_the_one_that_a_run_uses(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def examined(workdir):
        return only(dict(places.checks(workdir))["compiled programs"]()).text

    assert examined(tmp_path / "runs/a").startswith(f"{tmp_path}/runs/.compile_cache (not made")
    assert examined("gs://bucket/a").startswith(f"{tmp_path}/coca_jax/compiled (not made")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    assert examined("gs://bucket/a").startswith(f"{tmp_path}/own (not made")


def test_processes(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("COCA_", "SLURM_", "OMPI_", "PMI_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    assert only(environment.launcher()).text == "this process is alone"
    monkeypatch.setenv("COCA_COORDINATOR", "node0:8476")
    assert only(environment.launcher()).state == State.PROBLEM
    monkeypatch.setenv("COCA_PROCESSES", "2")
    monkeypatch.setenv("COCA_PROCESS", "1")
    words = "COCA_COORDINATOR=node0:8476, COCA_PROCESSES=2, COCA_PROCESS=1"
    assert only(environment.launcher()).text == words
