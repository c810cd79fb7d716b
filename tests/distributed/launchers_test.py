"""Complete and incomplete variables of launchers, and the messages; nothing waits."""

import io
import os
import socket
import sys

import pytest

from coca_jax.distributed import launchers
from coca_jax.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
EXPLICIT = {"COCA_COORDINATOR": "h:1", "COCA_PROCESSES": "2", "COCA_PROCESS": "1"}


@pytest.mark.parametrize(
    "environment, launcher",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, "slurm"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # the step of salloc's shell
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "ompi"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a:8080"}, "tpu"),
        ({"MEGASCALE_NUM_SLICES": "2"}, "tpu"),
        ({"PMI_SIZE": "3", "PMI_RANK": "0"}, "pmi"),
    ],
)
def test_launchers(environment, launcher):
    assert launchers.launcher(environment) == launcher


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"COCA_PROCESSES": "1"},
        {"COCA_PROCESSES": "1", "COCA_PROCESS": "0", "COCA_COORDINATOR": "h:1"},
        {"COCA_PROCESSES": "", "COCA_PROCESS": " "},
        {"COCA_PROCESSES": "1"} | SLURM,
        {"COCA_PROCESSES": "1", "OMPI_COMM_WORLD_SIZE": "4(x2)"},
        {"SLURM_STEP_NODELIST": "n", "SLURM_NTASKS": ""},
    ],
)
def test_alone(environment):
    assert launchers.find(environment, 300) is None


def test_explicit_comes_first():
    assert launchers.find(SLURM | EXPLICIT, 300) == ("h:1", 2, 1, None)


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"COCA_PROCESS": "0"}, ["COCA_COORDINATOR, COCA_PROCESSES", "set all three"]),
        ({"COCA_COORDINATOR": "h:1", "COCA_PROCESSES": "2"}, ["without COCA_PROCESS:"]),
        (EXPLICIT | {"COCA_PROCESSES": "two"}, ["COCA_PROCESSES=two"]),
        (EXPLICIT | {"COCA_PROCESSES": "-2"}, ["COCA_PROCESSES=-2"]),
        (EXPLICIT | {"COCA_PROCESS": "2"}, ["COCA_PROCESS=2", "below"]),
        (EXPLICIT | {"COCA_COORDINATOR": "host"}, ["host", "host:port"]),
        (
            {"SLURM_STEP_NODELIST": "n", "SLURM_NTASKS": "4"},
            ["one of 4 processes", "SLURM_PROCID, SLURM_JOB_ID", "`srun coca", "COCA_PROCESSES=1"],
        ),
        (SLURM | {"SLURM_NTASKS": "4(x2)"}, ["SLURM_NTASKS=4(x2)", "COCA_PROCESSES=1"]),
        (SLURM | {"SLURM_NTASKS": "٤"}, ["SLURM_NTASKS=٤"]),
        (SLURM | {"SLURM_PROCID": "7"}, ["SLURM_PROCID=7", "below SLURM_NTASKS=2"]),
        (SLURM | {"SLURM_JOB_ID": "x"}, ["SLURM_JOB_ID=x"]),
        (SLURM | {"SLURM_PTY_PORT": "33"}, ["interactive shell", "`srun coca"]),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
            ["OMPI_MCA_orte_hnp_uri not set", "`mpirun coca", "COCA_PROCESSES=1"],
        ),
        (
            {f"OMPI_COMM_WORLD_{name}": "4" for name in ("SIZE", "RANK", "LOCAL_RANK")},
            ["OpenMPI 5 does not", "all with COCA_COORDINATOR, COCA_PROCESSES, COCA_PROCESS"],
        ),
        ({"PMI_SIZE": "4", "PMI_RANK": "1"}, ["PMI_SIZE=4", "COCA_COORDINATOR"]),
        ({"MEGASCALE_NUM_SLICES": "two"}, ["MEGASCALE_NUM_SLICES=two"]),
    ],
)
def test_halves_are_refused(environment, words):
    with pytest.raises(UserError) as error:
        launchers.find(environment, 300)
    for word in words:
        assert word in str(error.value)


@pytest.fixture
def slurm(monkeypatch):
    """A task of SLURM, as far as JAX sees."""
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)


def test_slurm_address(slurm, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [host])
    address, count, process, devices = launchers.find(os.environ, 1)
    assert address.startswith("node07:") and (count, process, devices) == (2, 1, [0])


def test_a_node_that_is_not_there(slurm, monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(f"{host} not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match="2 tasks, but node07, the node of task 0"):
        launchers.find(os.environ, 300)


def test_a_terminal_is_no_task_of_slurm(slurm, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(UserError, match="an interactive shell, one of 2 tasks"):
        launchers.find(os.environ, 300)
