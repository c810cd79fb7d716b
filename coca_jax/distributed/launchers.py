"""Finds the other processes of a run from the environment variables of launchers.

The first of these that applies is used: 1. `COCA_COORDINATOR` (host:port of process 0),
`COCA_PROCESSES` and `COCA_PROCESS`; 2. SLURM, inside `srun`; 3. the `mpirun` of OpenMPI 4; 4. a
Cloud TPU slice, on VMs or GKE. Without any of them, or with `COCA_PROCESSES=1`, the process is
alone. An incomplete set of variables, as in a shell that a scheduler has opened, is an error.
"""

import socket
import sys
from collections.abc import Mapping
from typing import NamedTuple

from coca_jax.errors import UserError

EXPLICIT = ("COCA_COORDINATOR", "COCA_PROCESSES", "COCA_PROCESS")
OPENMPI_4 = "OMPI_MCA_orte_hnp_uri"  # the address of mpirun, on the machine of process 0


class Launcher(NamedTuple):
    """A program that starts several processes, and the variables that it sets for each."""

    count: str  # how many there are
    place: str  # which of them this is
    numbers: tuple[str, ...] = ()  # that JAX reads, too
    texts: tuple[str, ...] = ()
    start: str = ""  # the command that starts all


LAUNCHERS = {
    "slurm": Launcher(
        "SLURM_NTASKS",
        "SLURM_PROCID",
        ("SLURM_JOB_ID", "SLURM_LOCALID"),
        ("SLURM_STEP_NODELIST",),
        "srun",
    ),
    "ompi": Launcher(
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        (OPENMPI_4,),
        "mpirun",
    ),
    "pmi": Launcher("PMI_SIZE", "PMI_RANK"),
    "tpu": Launcher("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"),
}
Found = tuple[str, int, int, list[int] | None]  # address, count, number, devices


def find(environment: Mapping[str, str], start_seconds: int) -> Found | None:
    """Address of process 0, how many processes there are, and which one this is with which devices.

    Returns None if this process is alone.

    Raises:
      UserError: the variables do not fit together; says which, and what to do.
    """
    environment = {key: value.strip() for key, value in environment.items() if value.strip()}
    if any(key in environment for key in EXPLICIT):
        return _explicit(environment)
    name = launcher(environment)
    if name is None:
        return None
    _check(name, environment)
    return _detected(name, environment, start_seconds)


def describe(environment: Mapping[str, str]) -> str:
    """The launcher and its variables; empty if this process is alone. Contacts nothing.

    Raises:
      UserError: the variables do not fit together; says which, and what to do.
    """
    environment = {key: value.strip() for key, value in environment.items() if value.strip()}
    if any(key in environment for key in EXPLICIT):
        keys: tuple[str, ...] = EXPLICIT if _explicit(environment) else ()
    elif name := launcher(environment):
        _check(name, environment)
        row = LAUNCHERS[name]
        keys = (row.count, row.place, *row.numbers, *row.texts, "TPU_WORKER_HOSTNAMES")
    else:
        keys = ()
    return ", ".join(f"{key}={environment[key]}" for key in keys if key in environment)


def split(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, or of `[v6 address]:port`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"coordinator address {address}: must be host:port, such as node0:8476")
    return host, int(port)


def launcher(environment: Mapping[str, str]) -> str | None:
    """The launcher that started this process as one of several."""
    if "SLURM_STEP_NODELIST" in environment:
        # An interactive shell is a step of one task in a job of many.
        tasks = _number(environment, "SLURM_NTASKS", 1)
        if _number(environment, "SLURM_STEP_NUM_TASKS", tasks) > 1:
            return "slurm"
    if _number(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1:
        return "ompi"
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    if "," in hosts or slices > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "tpu"
    return "pmi" if _number(environment, "PMI_SIZE", 1) > 1 else None


def _explicit(environment: Mapping[str, str]) -> Found | None:
    """Address, count and number by our own variables."""
    numbers = {key: _number(environment, key, -1) for key in EXPLICIT[1:]}
    count, process = numbers.values()
    if count == 1 and process <= 0:
        return None
    if missing := [key for key in EXPLICIT if key not in environment]:
        given = ", ".join(key for key in EXPLICIT if key in environment)
        raise UserError(
            f"{given} set without {', '.join(missing)}: set all three, or COCA_PROCESSES=1 alone"
        )
    if process >= count:
        raise UserError(f"COCA_PROCESS={process}: must be below COCA_PROCESSES={count}")
    split(environment["COCA_COORDINATOR"])
    return environment["COCA_COORDINATOR"], count, process, None


def _number(environment: Mapping[str, str], key: str, default: int) -> int:
    text = environment.get(key, str(default))
    if key in environment and not (text.isascii() and text.isdecimal()):
        raise UserError(f"{key}={text}: must be a whole number, 0 or more{_help('')}")
    return int(text)


def _help(start: str) -> str:
    """The end of an error message: how to start this process instead."""
    every = f"all processes with `{start} coca ...`" if start else f"all with {', '.join(EXPLICIT)}"
    return f"; start this process alone with COCA_PROCESSES=1, or {every}"


def _check(name: str, environment: Mapping[str, str]) -> None:
    """Refuses variables that cannot be those of processes started together."""
    here = LAUNCHERS[name]
    count = _number(environment, here.count, 0)
    tail = _help(here.start)
    known = [key for key in (here.count, here.place, *here.numbers, *here.texts)]
    given = ", ".join(f"{key}={environment[key]}" for key in known if key in environment)
    if name == "pmi":
        raise UserError(f"{given}: started by an MPI whose address of process 0 is unknown{tail}")
    if name == "tpu":
        return
    missing = [key for key in known if key not in environment]
    if missing == [OPENMPI_4]:
        raise UserError(
            f"{given}: {OPENMPI_4} not set, by which OpenMPI 4 says where process 0 is, and "
            f"OpenMPI 5 does not{_help('')}"
        )
    if missing:
        raise UserError(
            f"{given}: one of {count} processes, but {', '.join(missing)} not set, as in a shell "
            f"that {name} did not start {count} times{tail}"
        )
    for key in here.numbers:
        _number(environment, key, 0)
    if (place := _number(environment, here.place, 0)) >= count:
        raise UserError(f"{here.place}={place}: must be below {here.count}={count}{tail}")
    if name == "slurm" and ("SLURM_PTY_PORT" in environment or _is_terminal()):
        raise UserError(f"{given}: an interactive shell, one of {count} tasks{tail}")


def _is_terminal() -> bool:
    """Whether this process has a terminal; `srun` gives none to its tasks."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _detected(name: str, environment: Mapping[str, str], start_seconds: int) -> Found:
    """Address, count and number by the cluster detection of `jax.distributed.initialize`."""
    # Private: the public `initialize` detects and connects in one call, and we check in between.
    from jax._src.clusters import ClusterEnv

    tail = _help(LAUNCHERS[name].start)
    try:
        parameters = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None if name == "tpu" else name, start_seconds
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"started by {name}, but {error}{tail}") from None
    if None in parameters[:3]:
        raise UserError(f"started by {name}, but there is no address of process 0{tail}")
    host = split(parameters[0])[0]
    try:
        if name == "slurm":  # its nodes know each other's names from the start
            socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(
            f"started by slurm as one of {parameters[1]} tasks, but {host}, the node of task 0, "
            f"is unknown here ({error}){tail}"
        ) from None
    return parameters
