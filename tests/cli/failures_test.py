"""Failures of the environment become one message; a bug stays an exception."""

import errno
import os

import jax
import pytest

from coca_jax.cli import failures
from coca_jax.errors import UserError

GONE = "there is no such module in this world"


def explained(error):
    """The failure of an exception that was really raised, as a command raises it."""
    try:
        raise error
    except BaseException as caught:
        return failures.explain(caught)


def of_module(name, *bases):
    """A kind of exception that is defined in another project."""
    return type("Refused", bases or (Exception,), {"__module__": name})


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes differ"),
        RuntimeError("INTERNAL: failed"),
        RuntimeError("Worker process was terminated unexpectedly with exit code 1. Search"),
        AssertionError(),
        KeyError("x"),
        jax.errors.JaxRuntimeError("INVALID_ARGUMENT: x"),
        RuntimeError("RESOURCE_EXHAUSTED: a queue of our own"),
        ModuleNotFoundError("No module named 'coca_jax.x'", name="coca_jax.x"),
        ImportError("cannot import name 'x' from 'jax'", name="jax"),
    ],
)
def test_a_bug_is_not_explained(error):
    assert explained(error) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("config.x=1: no"), ["config.x=1: no"]),
        (
            jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."
            ),
            [
                "8589934592 bytes",
                "config.train.batch_size",
                "config.train.grad_accum_steps",
                "fsdp",
            ],
        ),
        (MemoryError("Unable to allocate 7.45 GiB"), ["memory", "7.45 GiB"]),
        (
            RuntimeError(
                "Worker process was terminated unexpectedly with exit code -9. Search the logs "
                "above for the source of the crash."
            ),
            ["was killed", "memory", "config.data.workers", "config.data.threads"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/d/x"),
            ["/d/x: No space", "free some space"],
        ),
        (
            ValueError('RESOURCE_EXHAUSTED: Error writing "/d/x": No space left on device'),
            ["/d/x", "No space left on device", "free some space"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/d/x"), ["/d/x: Permission denied"]),
        (OSError(errno.EROFS, "Read-only file system", b"/d/\xff"), ["Read-only file system"]),
        (OSError("cannot identify image file"), ["cannot identify image file"]),
        (TimeoutError(), ["TimeoutError"]),
        (of_module("aiohttp.client_exceptions")("no answer\nfrom h"), ["no answer from h"]),
        (of_module("botocore.exceptions")("Unable to locate credentials"), ["locate credentials"]),
        (of_module("google.auth.exceptions", OSError)("no credentials"), ["no credentials"]),
        (ModuleNotFoundError(f"No module named '{GONE}'", name=GONE), [GONE, "install"]),
        (ImportError("libGL.so.1: cannot open shared object file"), ["libGL.so.1"]),
    ],
)
def test_the_environment_is_explained_in_one_line(error, words):
    code, message = explained(error)
    assert code == 2 and "\n" not in message
    for word in words:
        assert word in message


def test_what_an_exception_was_raised_from_explains_it():
    error = ValueError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/d/x")
    assert "/d/x: No space left" in explained(error).message


def test_an_exception_that_is_its_own_cause_is_looked_at_once():
    error = ValueError("could not save")
    error.__cause__ = error
    assert failures.explain(error) is None


def test_a_full_disk_names_the_file_that_was_open(tmp_path):
    def write():
        with (tmp_path / "a.json").open("w") as file:
            file.write("[")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as caught:
        write()
    message = failures.explain(caught.value).message
    assert f"{tmp_path}/a.json: No space left on device (" in message and "MiB are free" in message


def test_an_interruption_says_no_more_than_that():
    assert explained(KeyboardInterrupt()) == (130, "interrupted")


@pytest.fixture
def other_platforms(monkeypatch):
    """JAX as it is before it has looked for devices; what was found comes back afterwards."""
    from jax._src import xla_bridge

    for name in ("_backends", "_default_backend", "_backend_errors"):
        monkeypatch.setattr(xla_bridge, name, {} if name != "_default_backend" else None)
    # Keeps what earlier tests have asked it.
    monkeypatch.setattr(xla_bridge, "get_backend", xla_bridge._get_backend_uncached)
    before = jax.config.jax_platforms
    yield lambda platforms: jax.config.update("jax_platforms", platforms)
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "nonsense"])
def test_a_platform_that_is_not_here(platform, other_platforms):
    other_platforms(platform)
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        jax.devices()
    code, message = failures.explain(caught.value)
    assert code == 2 and f"JAX_PLATFORMS={platform}: no such device" in message
    assert "available here: cpu" in message
