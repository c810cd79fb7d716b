"""Start-up, configuration check and shutdown of a run of several processes.

`launchers` says how a process finds the others. The check is our own, since
`multihost_utils.assert_equal` compares arrays and names neither the key nor the process that
differs.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from coca_jax.distributed import launchers, rendezvous
from coca_jax.errors import ExitCode, UserError
from coca_jax.trees import flatten
from coca_jax.versions import versions

SLICE_SECONDS = 30 * 24 * 3600
FIND_SECONDS = 60  # for the address of process 0, which is then not used
VERDICT_SECONDS = 600  # for all processes to have read their configuration
_monitor: rendezvous.PeerMonitor | None = None


def start(start_seconds: int, heartbeat_seconds: int) -> None:
    """Connects this process to the others of its run, if any; call it before a device is used.

    A second call does nothing. `start_seconds` is how long to wait for all processes. Later, a
    process that is silent for `heartbeat_seconds`, or dies, ends all others, each
    with `ExitCode.PEER_LOST` and a message that names it.
    Raises a UserError that names who is missing, or what is wrong with the address or numbers.
    JAX's own SIGTERM handler is left out: handlers may be set before or after this call.
    """
    global _monitor
    if _monitor is not None:
        return
    found = launchers.find(os.environ, start_seconds)
    if found is None:
        return
    address, count, process, devices = found
    host, port = launchers.split(address)
    if process == 0:
        bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", f"[::]:{port}")
        connections, names = rendezvous.accept_peers(*launchers.split(bind), count, start_seconds)
    else:
        connections, names = rendezvous.connect(host, port, process, count, start_seconds)
    _initialize(address, count, process, devices, start_seconds, heartbeat_seconds)
    _monitor = rendezvous.PeerMonitor(process, connections, names, float(heartbeat_seconds))
    sys.excepthook = _failed


def place_of_its_own() -> tuple[int, int]:
    """The number of this process and of all processes of its run, which stay unconnected.

    For work that is shared without a word between them: the end of one is nothing to the others.
    Of several processes on a machine, each uses the GPUs that its launcher gives it. The hosts of
    a TPU slice must be connected, and wait for each other at the end, up to `SLICE_SECONDS`.
    """
    found = launchers.find(os.environ, FIND_SECONDS)
    if found is None:
        return 0, 1
    _, count, process, devices = found
    import jax

    if launchers.launcher(os.environ) == "tpu":
        jax.distributed.initialize(shutdown_timeout_seconds=SLICE_SECONDS)
    elif devices is not None:
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", ",".join(map(str, devices)))
    return process, count


def _initialize(
    address: str,
    count: int,
    process: int,
    devices: object,
    start_seconds: int,
    heartbeat_seconds: int,
) -> None:
    """Starts `jax.distributed` once all are here; its heartbeats are slower than the monitor's."""
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


def assert_same_on_all(name: str, mine: Mapping[str, Any]) -> None:
    """Raises a UserError in every process unless all have the same `mine` and the same versions.

    `mine` may be nested; its leaves are JSON values, or are compared by their `repr`. `name`
    begins the keys in the message, and must be used only once in a run.
    """
    if _monitor is None:
        return
    client = _client()
    text = json.dumps(flatten({name: mine, "version": versions()}), sort_keys=True, default=repr)
    client.key_value_set(f"coca/{name}/mine/{_monitor.process}", text)
    count = _count()
    if _monitor.process == 0:
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
    # Private: JAX has no public way to the key-value store that its processes share.
    from jax._src import distributed

    return distributed.global_state.client


def _count() -> int:
    # Private: `jax.process_count()` would start the backend, which processes must start together.
    from jax._src import distributed

    return distributed.global_state.num_processes


def _differences(texts: list[str], most: int = 20) -> list[str]:
    """A line for each key whose value in some process differs from that in process 0."""
    first, lines = json.loads(texts[0]), []
    for process, text in enumerate(texts):
        if text == texts[0]:
            continue
        other = json.loads(text)
        lines += [
            f"process {process} differs from process 0: "
            f"{key}={other.get(key, 'absent')} instead of {first.get(key, 'absent')}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key, first) != other.get(key, other)
        ]
    return lines if len(lines) <= most else [*lines[:most], f"... {len(lines) - most} more"]


def _failed(kind: type, error: BaseException, trace: object) -> None:
    """Handles an uncaught exception: reports it to all, unless a lost peer has caused it."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    time.sleep(2)  # the monitor names a lost process and ends this one
    if _monitor is not None:
        _monitor.close()
        _monitor.broadcast(failed=f"{kind.__name__}: {error}"[:500])
        # JAX aborts the others when process 0 goes, so they should have read this before.
        time.sleep(0.2 if _monitor.process == 0 else 0)
    sys.stdout.flush()
    os._exit(ExitCode.BUG)


def is_distributed() -> bool:
    """Whether `start` has connected this process to others."""
    return _monitor is not None


def shutdown(code: int, seconds: float = 600.0) -> None:
    """Ends this process with an exit code, as the last thing it does; never returns.

    With one of `rendezvous.GOOD` it waits for the other processes to come here too, for `seconds`
    at most. The interpreter's own end is left out, since it can hang on threads of collectives.
    """
    if _monitor is not None:
        _monitor.leave(code)
        if code in rendezvous.GOOD:
            thread = threading.Thread(target=_shutdown, daemon=True)
            thread.start()
            thread.join(seconds)
        _monitor.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _shutdown() -> None:
    import jax

    try:
        jax.distributed.shutdown()
    except Exception as error:  # whatever it is, this process is done
        print(f"coca: while leaving: {error}", file=sys.stderr)
