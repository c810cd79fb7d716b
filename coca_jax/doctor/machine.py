"""Processor cores and memory, as this process may use them."""

import os
import pathlib
import re
from collections.abc import Iterator

from coca_jax.doctor.finding import Finding, ok, problem
from coca_jax.io.cores import available_cores

LEAST_MEMORY = 2 << 30
CGROUP = pathlib.Path("/sys/fs/cgroup")


def machine() -> Iterator[Finding]:
    """Cores and memory, within the limits of a container."""
    cores: float = available_cores()
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        cores = min(cores, int(quota) / int(period))
    yield ok("cores", f"{cores:g}")
    sizes = _memory()
    if not sizes:
        return
    total, free = sizes
    text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
    if free < LEAST_MEMORY:
        fix = f"end other programs; training takes {LEAST_MEMORY >> 30} GiB and more"
        yield problem("memory", text, fix)
    else:
        yield ok("memory", text)


def _memory() -> tuple[int, int] | None:
    """Bytes in all and free; None where the system does not say."""
    lines = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    if not {"MemTotal", "MemAvailable"} <= lines.keys():
        return None
    total, free = (int(lines[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        # Files that are cached and not in use are given up when memory is needed.
        cached = re.search(r"^inactive_file (\d+)$", _read(CGROUP / "memory.stat"), re.MULTILINE)
        needed = max(0, int(used) - int(cached[1] if cached else 0))
        total, free = min(total, int(limit)), min(free, int(limit) - needed)
    return total, free


def _read(path: str | os.PathLike) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""
