"""Explains exceptions that the environment causes; every other exception is a bug.

They are: no such device, no memory, no space on a disk, no permission, no connection, an
interruption. Libraries are recognized by the names of their modules, so that nothing is imported to
explain an exception.
"""

import contextlib
import errno
import io
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from typing import NamedTuple

from coca_jax.errors import ExitCode, Incomplete, Preempted, UserError
from coca_jax.io.origins import is_network_error, is_of

LENGTH = 600  # characters of another project's message
SMALLER = (
    "a smaller config.train.batch_size, a larger config.train.grad_accum_steps, "
    "config.model.remat=full, more devices in config.mesh.fsdp, fewer config.data.workers"
)
KILLED_WORKER = "Worker process was terminated unexpectedly with exit code -9"  # Grain's
NO_BACKEND = ("Unable to initialize backend", "Unknown backend")
FULL = (errno.ENOSPC, errno.EDQUOT)
OF_FILES = (*FULL, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)


class Failure(NamedTuple):
    """The exit code and message of a command that failed."""

    code: int
    message: str


def explain(error: BaseException) -> Failure | None:
    """The exit code and message of an exception; None if it is a bug."""
    if isinstance(error, UserError):
        return Failure(ExitCode.USER_ERROR, str(error))
    if isinstance(error, Preempted):
        return Failure(ExitCode.PREEMPTED, f"{error}; run it again to go on")
    if isinstance(error, Incomplete):
        return Failure(ExitCode.INCOMPLETE, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "interrupted")
    for cause in _causes(error):
        for reason in (_no_backend, _no_memory, _no_connection, _no_file, _no_package):
            if message := reason(cause):
                return Failure(ExitCode.USER_ERROR, message)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the exception, and those that it was raised from, each once."""
    seen = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__


def _no_backend(error: BaseException) -> str:
    """Explains that JAX has no such device, or refuses a variable of the environment."""
    text = str(error)
    if isinstance(error, ValueError) and _innermost(error).endswith("jax/_src/config.py"):
        return f"{text}: a variable of the environment (JAX_...) has a value that JAX refuses"
    if not text.startswith(NO_BACKEND) and not (isinstance(error, AssertionError) and not text):
        return ""
    import jax
    import jax.extend.backend

    asked, name = jax.config.jax_platforms, "JAX_PLATFORMS"
    if not asked:
        asked, name = os.environ.get("JAX_PLATFORM_NAME"), "JAX_PLATFORM_NAME"
    if not text and (not asked or _platforms()):
        return ""  # another assertion
    jax.config.update("jax_platforms", None)
    why = f" ({_short(text.partition(' (set JAX_PLATFORMS')[0])})" if text else ""
    if not asked:
        return f"JAX can use no device here{why}"
    return (
        f"{name}={asked}: no such device can be used{why}; available here: "
        f"{', '.join(_platforms()) or 'none'}; set {name} to one of these, or unset it"
    )


def _innermost(error: BaseException) -> str:
    """The file of the line that raised the exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.replace(os.sep, "/") if frames else ""


def _platforms() -> list[str]:
    """The platforms whose devices JAX can use, by its configuration."""
    import jax.extend.backend

    try:
        return sorted(jax.extend.backend.backends())
    except (RuntimeError, AssertionError):
        return []


def _no_memory(error: BaseException) -> str:
    """Explains that the memory of the device or of the machine is too small."""
    text = str(error)
    if isinstance(error, MemoryError):
        detail = f" ({_short(text)})" if text else ""
        return f"out of this machine's memory{detail}; try {SMALLER}"
    if text.startswith(KILLED_WORKER):
        return (
            "a worker process that makes batches was killed, probably because this machine has too "
            "little memory; try fewer config.data.workers or config.data.threads"
        )
    if "RESOURCE_EXHAUSTED: " not in text or not is_of(error, ("jax", "jaxlib")):
        return ""
    size = _short(text.partition("RESOURCE_EXHAUSTED: ")[2])
    return f"out of the device's memory: {size}; try {SMALLER}"


def _no_file(error: BaseException) -> str:
    """Explains an error of the operating system: the file, the reason and the free space."""
    number, text, file = None, str(error), ""
    if isinstance(error, OSError):
        number = error.errno
        written = _open_file(error) if number in OF_FILES else ""
        file = os.fsdecode(error.filename or written)
        text = error.strerror or text or type(error).__name__
        text = f"{file}: {text}" if file and file not in text else text
        if number == errno.ENOENT and not file:  # as `os.getcwd` says it
            text = "the current folder has been removed; change to one that exists"
    else:  # libraries in C++ have only a text
        number = next((n for n in OF_FILES if os.strerror(n) in text), None)
        if number is None:
            return ""
    if number not in FULL:
        return _short(text)
    return f"{_short(text)}{_room(file)}; free some space, or write elsewhere"


def _open_file(error: BaseException) -> str:
    """The name of the file that was being written: the innermost one on the way to the error."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else None
            if isinstance(name, str) and value not in (sys.stdin, sys.stdout, sys.stderr):
                return name
    return ""


def _room(file: str) -> str:
    """A phrase on how full a file's file system is."""
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(os.path.dirname(os.path.abspath(file))) if file else None
        if usage:
            return f" ({usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB are free)"
    return ""


def _no_connection(error: BaseException) -> str:
    """Explains that a server or an object store does not answer, or refuses."""
    if not is_network_error(error):
        return ""
    return f"the network cannot be used: {type(error).__name__}: {_short(str(error))}"


def _no_package(error: BaseException) -> str:
    """Explains that a package, or a library that it needs, is not installed."""
    if not isinstance(error, ImportError) or "cannot import name" in str(error):
        return ""
    return (
        "" if (error.name or "").startswith("coca_jax") else f"{error}: install the missing package"
    )


def _short(text: str) -> str:
    """A message in one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else f"{line[:LENGTH]} ..."
