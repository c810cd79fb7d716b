"""Starting a run of several processes, agreeing on what it is, and leaving it.

How a process finds the others, first that applies:
1. `COCA_COORDINATOR` (host:port of process 0), `COCA_PROCESSES` and `COCA_PROCESS`;
2. SLURM, inside `srun`; 3. OpenMPI's `mpirun`; 4. a Cloud TPU slice, on VMs or GKE.
With none of them it is alone. Exit codes: `roll_call.PEER_LOST` if another process was lost.
"""

import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from coca_jax.errors import UserError
from coca_jax.parallel import roll_call

EXPLICIT = ("COCA_COORDINATOR", "COCA_PROCESSES", "COCA_PROCESS")
VERDICT_SECONDS = 600  # for all processes to have read their configuration
_watch: roll_call.Watch | None = None


def start(start_seconds: int, heartbeat_seconds: int) -> None:
    """Joins this process to the others of its run, if there are any; call it before any device.

    A second call does nothing. `start_seconds` is how long to wait for all to come; a process
    that is silent for `heartbeat_seconds` afterwards ends all others (at once if it dies), each
    with `roll_call.PEER_LOST` and a message that names it.
    Raises a UserError that names who is missing, or what is wrong with the address or numbers.
    JAX's own SIGTERM handler is left out: handlers may be set before or after this call.
    """
    global _watch
    if _watch is not None:
        return
    found = _explicit(os.environ) or _detected(os.environ, start_seconds)
    if found is None:
        return
    address, count, process, devices = found
    host, port = _split(address)
    if process == 0:
        bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f"[::]:{port}")
        lines, names = roll_call.gather(*_split(bind), count, start_seconds)
    else:
        lines, names = roll_call.join(host, port, process, count, start_seconds)
    _initialize(address, count, process, devices, start_seconds, heartbeat_seconds)
    _watch = roll_call.Watch(process, lines, names, float(heartbeat_seconds))
    sys.excepthook = _failed


def _explicit(environment: Mapping[str, str]) -> tuple[str, int, int, None] | None:
    """Coordinator, count and number from the environment; None if it has none, or one process."""
    given = {key: environment[key] for key in EXPLICIT if environment.get(key)}
    if not given:
        return None
    if missing := [key for key in EXPLICIT if key not in given]:
        raise UserError(f"{', '.join(given)} set without {', '.join(missing)}: set all three")
    numbers = {}
    for key in EXPLICIT[1:]:
        if not given[key].isdecimal():
            raise UserError(f"{key}={given[key]}: must be a whole number, 0 or more")
        numbers[key] = int(given[key])
    count, process = numbers["COCA_PROCESSES"], numbers["COCA_PROCESS"]
    if process >= count:
        raise UserError(f"COCA_PROCESS={process}: must be below COCA_PROCESSES={count}")
    _split(given["COCA_COORDINATOR"])
    return (given["COCA_COORDINATOR"], count, process, None) if count > 1 else None


def _split(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, or of `[v6 address]:port`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"coordinator address {address}: must be host:port, such as node0:8476")
    return host, int(port)


def _several(environment: Mapping[str, str]) -> str | None:
    """Which launcher started this process as one of several."""
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return "slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "ompi"
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in hosts or environment.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return "tpu"
    return None


def _detected(environment: Mapping[str, str], start_seconds: int) -> tuple | None:
    """The same from a cluster's environment, as `jax.distributed.initialize` would find it."""
    launcher = _several(environment)
    if launcher is None:
        return None
    from jax._src.clusters import ClusterEnv

    method = None if launcher == "tpu" else launcher
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, method, start_seconds
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"started by {launcher}, but {error}; set {', '.join(EXPLICIT)}") from None
    if None in found[:3]:
        raise UserError(f"started by {launcher}, but no address found; set {', '.join(EXPLICIT)}")
    return found


def _initialize(
    address: str,
    count: int,
    process: int,
    devices: object,
    start_seconds: int,
    heartbeat_seconds: int,
) -> None:
    """JAX's own start; everyone is known to be here. Its heartbeats are slower than the watch's."""
    import jax

    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        count,
        process,
        devices,
        cluster_detection_method="deactivate",
        initialization_timeout=start_seconds,
        heartbeat_timeout_seconds=2 * heartbeat_seconds,
    )


def agree(name: str, mine: Mapping[str, Any]) -> None:
    """Raises a UserError in every process unless all have the same `mine` and the same versions.

    `mine` is nested as far as it likes; its leaves must be JSON's, or have a telling `repr`.
    `name` begins the keys in the message and is used once in a run.
    """
    if _watch is None:
        return
    client = _client()
    text = json.dumps(_flat({name: mine, "version": _versions()}), sort_keys=True)
    client.key_value_set(f"coca/{name}/mine/{_watch.process}", text)
    count = _count()
    if _watch.process == 0:
        texts = [
            client.blocking_key_value_get(f"coca/{name}/mine/{i}", VERDICT_SECONDS * 1000)
            for i in range(count)
        ]
        client.key_value_set(f"coca/{name}/verdict", json.dumps(_differences(texts)))
    verdict = json.loads(
        client.blocking_key_value_get(f"coca/{name}/verdict", VERDICT_SECONDS * 1000)
    )
    if verdict:
        raise UserError("\n".join(verdict))


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _count() -> int:
    from jax._src import distributed

    return distributed.global_state.num_processes


def _versions() -> dict:
    packages = {name: importlib.metadata.version(name) for name in ("coca_jax", "jax", "jaxlib")}
    return packages | {"python": platform.python_version()}


def _flat(tree: Any, prefix: str = "") -> dict:
    """Leaves by dotted key."""
    if not isinstance(tree, Mapping):
        return {prefix: tree if isinstance(tree, str | int | float | None) else repr(tree)}
    leaves: dict = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _differences(texts: list[str], most: int = 20) -> list[str]:
    """What each process has otherwise than process 0, a line each."""
    first, found = json.loads(texts[0]), []
    for process, text in enumerate(texts):
        if text == texts[0]:
            continue
        other = json.loads(text)
        found += [
            f"process {process} differs from process 0: "
            f"{key}={other.get(key, 'absent')} instead of {first.get(key, 'absent')}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key, first) != other.get(key, other)
        ]
    return found if len(found) <= most else [*found[:most], f"... {len(found) - most} more"]


def _failed(kind: type, error: BaseException, trace: object) -> None:
    """An exception nobody caught: it may only be that another process was lost; else tell all."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    time.sleep(2)  # a lost process is named by the watch, which ends this one
    if _watch is not None:
        _watch.close()
        _watch.tell(failed=f"{kind.__name__}: {error}"[:500])
        # JAX aborts the others when process 0 goes, so they should have read this before.
        time.sleep(0.2 if _watch.process == 0 else 0)
    sys.stdout.flush()
    os._exit(1)


def joined() -> bool:
    """Whether `start` has found other processes."""
    return _watch is not None


def leave(code: int, seconds: float = 600.0) -> None:
    """Ends this process with an exit code, as the last thing it does; never returns.

    With 0 or 3 it waits for the other processes to come here too, for `seconds` at most. The
    interpreter's own end is left out, since it can hang on threads of collectives.
    """
    if _watch is not None:
        _watch.leave(code)
        if code in roll_call.GOOD:
            thread = threading.Thread(target=_shutdown, daemon=True)
            thread.start()
            thread.join(seconds)
        _watch.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _shutdown() -> None:
    import jax

    try:
        jax.distributed.shutdown()
    except Exception as error:  # whatever it is, this process is done
        print(f"coca: while leaving: {error}", file=sys.stderr)
