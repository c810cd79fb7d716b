"""launch/local.py with a stand-in for `coca_jax`: what it starts, shows, passes on and returns."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch/local.py"
PACKAGE = LAUNCHER.parents[1] / "coca_jax"

# A package named coca_jax whose command follows the file `plan` in the workdir.
STAND_IN = """
import os, pathlib, signal, sys, time
me = os.environ["COCA_PROCESS"]
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
print("words", *sys.argv[1:], flush=True)
print("process", me, "of", os.environ["COCA_PROCESSES"], os.environ["JAX_NUM_CPU_DEVICES"],
      os.environ["JAX_PLATFORMS"], os.environ["COCA_COORDINATOR"], flush=True)
def stop(number, frame):
    print("asked by", signal.Signals(number).name, flush=True)
    if "deaf" not in plan:
        sys.exit(3)
plan = (workdir / "plan").read_text()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
(workdir / f"started{me}").write_text(str(os.getpid()))
if "crash" in plan and me == "1" and not (workdir / "crashed").exists():
    (workdir / "crashed").touch()
    while len(list(workdir.glob("started*"))) < int(os.environ["COCA_PROCESSES"]):
        time.sleep(0.02)
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if "user error" in plan:
    sys.exit(2)
if "incomplete" in plan and me == "0":
    sys.exit(5)
if "codes" in plan:  # of process 1, and of process 0, which ends after it
    _, first, second = plan.split()
    if me == "1":
        sys.exit(int(first))
    while not ((workdir / "started1").exists() and (pid := (workdir / "started1").read_text())):
        time.sleep(0.005)
    stat = pathlib.Path(f"/proc/{pid}/stat")
    while stat.exists() and ") Z " not in stat.read_text():
        time.sleep(0.005)
    sys.exit(int(second))
end = time.monotonic() + (60 if "linger" in plan and (workdir / "crashed").exists()
                          or "forever" in plan else 0)
if "once" in plan and (workdir / "again").exists():
    end = 0
(workdir / "again").touch()
while time.monotonic() < end:
    time.sleep(0.05)
print("finished", flush=True)
"""


@pytest.fixture
def launch(tmp_path):
    package = tmp_path / "code/coca_jax"
    package.mkdir(parents=True)
    # The launcher's own imports are the real package's.
    (package / "__init__.py").write_text(f"__path__.append({str(PACKAGE)!r})")
    (package / "__main__.py").write_text(STAND_IN)
    workdir = tmp_path / "run"
    workdir.mkdir()
    started = []

    def start(plan, *arguments, words=()):
        (workdir / "plan").write_text(plan)
        started.append(
            subprocess.Popen(
                [sys.executable, str(LAUNCHER), *arguments, "--", *words, "--workdir", workdir],
                cwd=tmp_path / "code",
                env=os.environ | {"PYTHONPATH": str(tmp_path / "code")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    start.workdir = workdir
    yield start
    for child in started:
        child.kill()
        child.wait()


def all_started(workdir, count):
    until = time.monotonic() + 30
    while len(pids := [p for p in workdir.glob("started*") if p.read_text()]) < count:
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(path.read_text()) for path in pids]


def log(workdir, process):
    return (workdir / f"logs/process_{process}.log").read_text()


def test_each_has_its_number_devices_and_log(launch):
    child = launch("", "--processes", "3", "--devices", "2", words=["--config", "c.py"])
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert log(launch.workdir, 0) == out
    addresses = set()
    for i in range(3):
        lines = log(launch.workdir, i).splitlines()
        assert lines[0] == f"words train --config c.py --workdir {launch.workdir}"
        assert lines[1].startswith(f"process {i} of 3 2 cpu 127.0.0.1:")
        addresses.add(lines[1].split()[-1])
    assert len(addresses) == 1


def test_another_command_and_log_folder(launch, tmp_path):
    child = launch("", "--logs", str(tmp_path / "elsewhere"), words=["evaluate", "--step", "4"])
    out, _ = child.communicate(timeout=30)
    assert child.returncode == 0 and out.startswith("words evaluate --step 4 --workdir")
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == [
        "process_0.log",
        "process_1.log",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_to_all(launch, number):
    child = launch("forever", "--processes", "3")
    all_started(launch.workdir, 3)
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == 3
    for i in range(3):
        assert log(launch.workdir, i).count(f"asked by {number.name}") == 1


def test_a_second_signal_kills(launch):
    child = launch("forever deaf")
    all_started(launch.workdir, 2)
    child.send_signal(signal.SIGINT)
    until = time.monotonic() + 20
    while not all("asked by SIGINT" in log(launch.workdir, i) for i in (0, 1)):
        assert time.monotonic() < until
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)  # at once: the same, sent twice
    time.sleep(1.2)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGKILL


@pytest.mark.slow  # ten seconds of grace
def test_a_death_ends_the_others(launch):
    child = launch("crash linger forever", "--processes", "3")
    _, errors = child.communicate(timeout=40)
    assert child.returncode == 128 + signal.SIGKILL
    assert "process 1 ended with SIGKILL; the last lines of" in errors
    assert "\n  about to die" in errors


def test_the_cause_is_shown_not_the_consequence(launch):
    child = launch("codes 9 4")
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 9
    assert "process 1 ended with exit code 9" in errors


@pytest.mark.parametrize("second, failed", [(0, False), (5, False), (9, True)])
def test_one_that_is_done_without_some_inputs_is_no_failure(launch, second, failed):
    child = launch(f"codes 5 {second}")
    _, errors = child.communicate(timeout=30)
    assert child.returncode == (9 if failed else 5)
    assert "process 1 ended" not in errors and ("process 0 ended" in errors) == failed


@pytest.mark.slow
def test_restart_goes_on(launch):
    child = launch("crash linger once", "--restarts", "2")
    _, errors = child.communicate(timeout=40)
    assert child.returncode == 0
    assert errors.count("starting again (1 of 2)") == 1 and "(2 of 2)" not in errors
    text = log(launch.workdir, 1)
    assert text.index("about to die") < text.index("finished")


def test_no_restart_after_a_user_error(launch):
    child = launch("user error", "--restarts", "3")
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 2 and "starting again" not in errors


def test_children_die_with_the_launcher(launch):
    child = launch("forever deaf")
    pids = all_started(launch.workdir, 2)
    child.kill()
    child.wait()
    until = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def _alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_a_workdir_logs_must_be_named(tmp_path):
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "--", "params"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "--logs" in done.stderr


def test_a_workdir_without_a_name():
    words = ["--", "train", "--config", "shapes", "--workdir"]
    done = subprocess.run([sys.executable, str(LAUNCHER), *words], capture_output=True, text=True)
    assert done.returncode == 2 and "--workdir: expected one argument" in done.stderr


@pytest.mark.parametrize(
    "name, expected",
    [
        ("../run", "../run"),
        ("gs://bucket/a/run", "runs/bucket/a/run"),
        ("s3://bucket/run", "runs/bucket/run"),
        ("file:///there/run", "/there/run"),
    ],
)
def test_logs_are_local(name, expected):
    spec = importlib.util.spec_from_file_location("local", LAUNCHER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for words in (["--workdir", name], ["--config", "c", f"--workdir={name}"]):
        folder = module._log_folder(types.SimpleNamespace(logs=None), words)
        assert str(folder) == f"{expected}/logs"
