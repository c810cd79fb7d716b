"""The launchers for clusters: as far as possible with the real thing, else what they would call."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from coca_jax.config import packaged

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def command(folder, name, text):
    """A program on the PATH of a test."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


def run(folder, script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        cwd=folder,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def slurm(tmp_path):
    """`slurm.sh` with an `srun` that runs one task here and a `scontrol` that writes it down."""

    def submit(code, task="train", **environment):
        command(tmp_path, "srun", '#!/bin/bash\necho "srun $@" >> calls\nexit $TASK_CODE\n')
        command(tmp_path, "scontrol", '#!/bin/bash\necho "scontrol $@" >> calls\n')
        (tmp_path / "calls").write_text("")
        arguments = (task, "--config", "a b.py", "--workdir", "w")
        settings = {"SLURM_JOB_ID": "77", "TASK_CODE": str(code), "PYTHON": "py", **environment}
        done = run(tmp_path, "slurm.sh", *arguments, **settings)
        return done, (tmp_path / "calls").read_text().splitlines()

    return submit


@pytest.mark.parametrize("code, requeued", [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (137, 1)])
def test_slurm_requeues_what_can_go_on(slurm, code, requeued):
    done, calls = slurm(code)
    assert done.returncode == code
    assert calls[0].endswith("py -u -m coca_jax train --config a b.py --workdir w")
    assert calls[1:] == ["scontrol requeue 77"] * requeued


@pytest.mark.parametrize(("task", "wait"), [("train", 60), ("embed", 0), ("score-pairs", 0)])
def test_slurm_lets_each_task_of_shared_work_end(slurm, task, wait):
    _, calls = slurm(0, task)
    assert {f"--wait={wait}", "--kill-on-bad-exit=0"} <= set(calls[0].split())


def test_slurm_stops_requeuing(slurm):
    done, calls = slurm(3, SLURM_RESTART_COUNT="5", COCA_MOST_RESTARTS="5")
    assert done.returncode == 3 and len(calls) == 1


def test_slurm_asks_for_signal_and_requeue():
    options = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sh").read_text(), re.M)
    assert "--requeue" in options and "--signal=TERM@120" in options


@pytest.mark.parametrize("script", ["slurm.sh", "mpi.sh", "tpu_vm.sh"])
def test_without_a_command_they_say_how(tmp_path, script):
    done = run(tmp_path, script)
    assert done.returncode == 2 and f"launch/{script}" in done.stderr


@pytest.mark.parametrize("given", ["", "~/my coca", "{home}/my coca"])
def test_tpu_vm_quotes_the_command(tmp_path, given):
    command(tmp_path, "gcloud", '#!/bin/bash\nprintf "%s\\n" "$@" > calls\n')
    words = ["train", "--config", "a b.py", "--workdir", "gs://x/$y"]
    given = given.format(home=tmp_path)
    done = run(tmp_path, "tpu_vm.sh", "slice", "zone-a", *words, FOLDER=given)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert " ".join(calls[:-2]) == "compute tpus tpu-vm ssh slice --zone zone-a --worker=all"
    remote = calls[-1]
    # What a worker's shell makes of it, with a Python that prints its arguments.
    folder = tmp_path / ("my coca" if given else "coca") / ".venv/bin"
    folder.mkdir(parents=True)
    command(folder, "python", '#!/bin/bash\nprintf "%s\\n" "$@"\n')
    there = subprocess.run(
        ["bash", "-c", remote],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert there.stdout.splitlines() == ["-u", "-m", "coca_jax", *words], there.stderr


@pytest.mark.parametrize("name, code, seen", [("embed", 5, 0), ("embed", 2, 2), ("train", 5, 5)])
def test_mpirun_does_not_see_that_a_share_lacks_some_inputs(tmp_path, name, code, seen):
    command(tmp_path, "python", f'#!/bin/bash\necho "$@"\nexit {code}\n')
    command(tmp_path, "mpirun", '#!/bin/bash\nshift 4\nexec "$@"\n')  # four options, here
    done = run(tmp_path, "mpi.sh", "-n2", "--", name, "a b", PYTHON=str(tmp_path / "python"))
    assert (done.stdout, done.returncode) == (f"-u -m coca_jax {name} a b\n", seen)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="OpenMPI's mpirun is not installed")
def test_mpirun_for_real(tmp_path):
    package = tmp_path / "stand_in/coca_jax_stand_in.py"
    package.parent.mkdir()
    package.write_text(
        "import sys\n"
        "from coca_jax.distributed import processes\n"
        "processes.start(30, 10)\n"
        "processes.assert_same_on_all('config', {'a': 1})\n"
        "import jax\n"
        "numbers = jax.process_index(), jax.process_count(), jax.device_count()\n"
        "# One write: OpenMPI may put another process's words between two.\n"
        "sys.stdout.write(f'here {numbers} {sys.argv[1:]}\\n')\n"
        "processes.shutdown(0)\n"
    )
    # In place of `python -u -m coca_jax WORDS`: only the last words differ.
    command(tmp_path, "python", f'#!/bin/bash\nshift 3\nexec {sys.executable} -u {package} "$@"\n')
    done = run(
        tmp_path,
        "mpi.sh",
        *["--allow-run-as-root", "--oversubscribe", "-np", "3", "--", "train", "--workdir", "w"],
        PYTHON=str(tmp_path / "python"),
        PYTHONPATH=str(ROOT),
        JAX_NUM_CPU_DEVICES="2",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for i in range(3):
        assert f"here {(i, 3, 6)} ['train', '--workdir', 'w']" in done.stdout


# Of JobSet v1alpha2 and batch/v1's Job: which keys there may be, and which there must be (!).
FIELDS = {
    "": {"apiVersion!", "kind!", "metadata!", "spec!"},
    "spec": {
        "replicatedJobs!",
        "network",
        "successPolicy",
        "failurePolicy",
        "startupPolicy",
        "suspend",
        "coordinator",
        "managedBy",
        "ttlSecondsAfterFinished",
        "dependsOn",
    },
    "spec.network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {
        "name!",
        "action!",
        "onJobFailureReasons",
        "onJobFailureMessagePatterns",
        "targetReplicatedJobs",
    },
    "spec.replicatedJobs": {"name!", "template!", "replicas", "groupName", "dependsOn"},
    "spec.replicatedJobs.template": {"metadata", "spec!"},
    "spec.replicatedJobs.template.spec": {
        "parallelism",
        "completions",
        "completionMode",
        "backoffLimit",
        "podFailurePolicy",
        "activeDeadlineSeconds",
        "template!",
    },
}


def wrong_fields(value, path=""):
    """Messages for keys that no such object has, or that one lacks."""
    if isinstance(value, list):
        return [message for each in value for message in wrong_fields(each, path)]
    if not isinstance(value, dict) or path not in FIELDS:
        return []
    known = {field.removesuffix("!") for field in FIELDS[path]}
    needed = {field[:-1] for field in FIELDS[path] if field.endswith("!")}
    found = [f"{path}.{key} unknown" for key in value.keys() - known]
    found += [f"{path}.{key} missing" for key in needed - value.keys()]
    for key, each in value.items():
        found += wrong_fields(each, f"{path}.{key}".removeprefix("."))
    return found


@pytest.fixture
def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_jobset_fields(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert wrong_fields(jobset) == []
    jobset["spec"]["replicatedJob"] = jobset["spec"].pop("replicatedJobs")
    assert wrong_fields(jobset) == ["spec.replicatedJob unknown", "spec.replicatedJobs missing"]


def test_jobset_counts_and_address_agree(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    values = {each["name"]: each.get("value") for each in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert str(spec["parallelism"]) == str(spec["completions"]) == values["COCA_PROCESSES"]
    # Pod 0 of job 0: <jobset>-<job>-<job index>-<pod index>.<jobset>, the default subdomain.
    name = jobset["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    assert values["COCA_COORDINATOR"] == f"{name}-{job['name']}-0-0.{name}:{port}"
    assert "job-completion-index" in str(container["env"])
    config = next(a for a in container["args"] if a.startswith("--config="))
    assert config.partition("=")[2] in packaged.names()


def test_jobset_starts_again_but_not_after_a_user_error(jobset):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    rule = spec["podFailurePolicy"]["rules"][0]
    container = spec["template"]["spec"]["containers"][0]["name"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": container, "operator": "In", "values": [2, 5]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
