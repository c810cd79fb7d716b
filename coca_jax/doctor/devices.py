"""The devices, asked by a child process: JAX hangs where another process holds them."""

import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from coca_jax.doctor.finding import Finding, ok, problem

SECONDS = 60.0
GPUS, TPUS = ("/dev/nvidia[0-9]*",), ("/dev/accel*", "/dev/vfio/[0-9]*")
_SHOWN = 300  # characters of an error
_children = set[subprocess.Popen]()  # each in a session of its own, which Ctrl-C does not reach
_CODE = """
import json, jax, jax.numpy as jnp
devices = jax.local_devices()
right = float(jnp.sum(jnp.ones((16, 16)) @ jnp.ones((16, 16)))) == 4096
limit = (devices[0].memory_stats() or {}).get("bytes_limit") if devices[0].platform != "cpu" else 0
print(json.dumps([len(devices), devices[0].platform, devices[0].device_kind, right, limit or 0]))
"""


def devices() -> Iterator[Finding]:
    """Whether JAX computes, and on what."""
    code, output, errors = _child(_CODE)
    if code is None:
        yield problem(
            "devices",
            f"JAX does not answer within {SECONDS:g} seconds",
            "end the process that holds the devices, such as an earlier run; on a slice of several "
            "TPU hosts, run this on all of them at once",
        )
        return
    if code:
        yield problem("devices", errors or f"JAX ended with {code}", _mend())
        return
    count, platform, kind, right, limit = json.loads(output)
    memory = f", {limit / 2**30:.0f} GiB for programs" if limit else ""
    text = f"{count} x {kind} ({platform}{memory})"
    if not right:
        yield problem("devices", f"{text}: a matmul gives a wrong result", "test the hardware")
    elif platform == "cpu" and not os.environ.get("JAX_PLATFORMS") and (unused := _unused()):
        name, extra = unused
        yield problem(
            "devices",
            f"{text}, but there is a {name}, which JAX does not see",
            f'pip install "coca_jax[{extra}]", and its driver',
        )
    else:
        yield ok("devices", f"{text}; a matmul is right")


def stop() -> None:
    """Kills the child process, if there is one."""
    for child in list(_children):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _unused() -> tuple[str, str] | None:
    for name, extra, patterns in (("GPU", "cuda", GPUS), ("TPU", "tpu", TPUS)):
        if any(map(glob.glob, patterns)):
            return name, extra
    return None


def _mend() -> str:
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return f"JAX_PLATFORMS={platforms} in the environment: unset it, or install that platform"
    return "pip install --upgrade jax jaxlib flax, or coca_jax's extra for your devices"


def _child(code: str) -> tuple[int | None, str, str]:
    """Exit code, output and last line of errors of a Python program; no code: it did not end."""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # others may use the GPU
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    _children.add(child)
    try:
        output, errors = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that a driver holds stays
            child.wait(1.0)
        return None, "", ""
    finally:
        _children.discard(child)
    lines = [line for line in errors.splitlines() if line.strip()]
    return child.returncode, output.strip().rpartition("\n")[2], (lines or [""])[-1][:_SHOWN]
