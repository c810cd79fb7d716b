"""All checks, none of which can hang or raise."""

import functools
import os
import threading
from collections.abc import Callable, Iterable

from coca_jax.doctor import devices, environment, images, machine, packages, places
from coca_jax.doctor.finding import Finding, problem

SECONDS = 15.0  # for a check: a file system or a program may not answer
Check = Callable[[], Iterable[Finding]]


def examine(workdir: str | os.PathLike) -> list[Finding]:
    """The findings of all checks; no process that they started is left, also after Ctrl-C.

    Args:
      workdir: the folder in which runs are to be, or are already.
    """
    try:
        return _examined(workdir)
    finally:
        devices.stop()


def _examined(workdir: str | os.PathLike) -> list[Finding]:
    findings: list[Finding] = []
    for name, seconds, check in (
        ("versions", SECONDS, packages.versions),
        ("devices", devices.SECONDS + SECONDS, devices.devices),
        ("machine", SECONDS, machine.machine),
        *((name, SECONDS, check) for name, check in places.checks(workdir)),
        ("images", SECONDS, images.decoders),
        ("processes", SECONDS, environment.launcher),
        ("java", SECONDS, environment.java),
        ("stores", SECONDS, environment.stores),
        ("huge pages", SECONDS, environment.huge_pages),
        ("extras", SECONDS, packages.extras),
    ):
        findings += _bounded(name, check, seconds)
    return findings


def _bounded(name: str, check: Check, seconds: float) -> list[Finding]:
    """The findings of a check, or that it raised an exception or takes too long."""
    findings: list[Finding] = []
    thread = threading.Thread(
        target=functools.partial(_run, name, check, findings), name=f"doctor-{name}", daemon=True
    )
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [problem(name, f"does not answer within {seconds:g} seconds")]
    return findings


def _run(name: str, check: Check, findings: list[Finding]) -> None:
    try:
        findings += check()
    except Exception as error:  # whatever is broken here
        findings.append(problem(name, f"{type(error).__name__}: {' '.join(str(error).split())}"))
