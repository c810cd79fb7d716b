"""Threads of libraries that fail: what is printed of it."""

import asyncio
import errno
import functools
import gc
import logging
import sys
import threading

import fsspec
import pytest

from coca_jax.io import background


@pytest.fixture
def hushed(monkeypatch):
    """The hooks as they are in a process that saves; put back afterwards."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    background.hush.__wrapped__()


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def call_a_closed_loop():
    """Imitates TensorStore after a failed save: it reports to a loop that is gone."""
    loop = asyncio.new_event_loop()
    loop.close()
    try:
        loop.call_soon_threadsafe(print)
    except RuntimeError:
        error = sys.exc_info()
        # As from a callback in C++, which has no frame of Python beneath asyncio's.
        sys.excepthook(error[0], error[1].with_traceback(error[2].tb_next), error[2].tb_next)


def test_a_loop_that_is_gone_is_not_printed(hushed, capfd):
    in_thread(call_a_closed_loop)
    assert capfd.readouterr().err == ""


def test_the_same_in_the_main_thread_is_printed(hushed, capfd):
    call_a_closed_loop()
    assert "Event loop is closed" in capfd.readouterr().err


def test_a_thread_of_tensorboard_on_a_full_disk_prints_nothing(hushed, capfd, tmp_path):
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(tmp_path), flush_secs=0)
    worker = writer.file_writer.event_writer._worker

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    worker._record_writer.write_event = full
    worker._record_writer.flush = full
    writer.add_scalar("a", 1.0, 1)
    worker.join(10)
    assert not worker.is_alive()
    writer.file_writer.event_writer._closed = True  # or it fails again when the tests end
    assert capfd.readouterr().err == ""


def test_our_own_threads_speak(hushed, capfd):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    in_thread(fail)
    assert "No space left" in capfd.readouterr().err


def test_asyncio_logs_what_is_no_noise(hushed, caplog):
    async def fail(error):
        raise error

    async def forget(error):
        task = asyncio.ensure_future(fail(error))
        await asyncio.sleep(0)
        del task

    asyncio.run(forget(ValueError("news")))
    assert "news" in caplog.text


def test_a_forgotten_job_that_found_no_file_is_not_logged(hushed, caplog):
    async def forget():
        job = fsspec.open("/no such folder/file").open
        await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, job)])

    asyncio.run(forget())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_file_that_a_users_job_did_not_find_is_logged(hushed, caplog):
    async def forget():
        job = functools.partial(read, "/no such folder/file")
        await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, job)])

    def read(path):
        return fsspec.open(path).open()

    asyncio.run(forget())
    gc.collect()
    assert "/no such folder/file" in caplog.text


def raised(error, file):
    """An error as code in a file raises it."""
    try:
        exec(compile("raise error", file, "exec"), {"error": error})
    except Exception as caught:
        # Without the frame of this test, which no library's thread has.
        return caught.with_traceback(caught.__traceback__.tb_next)


@pytest.mark.parametrize(
    "error, file, is_noise",
    [
        (OSError("No space left on device"), "/lib/orbax/save.py", True),
        (ValueError('PERMISSION_DENIED: Error opening "zarr3" driver'), "/lib/orbax/a.py", True),
        (ValueError("Error: UNAVAILABLE: no answer"), "/lib/tensorstore/a.py", True),
        (OSError("Forbidden: b/bucket/o"), "/lib/site-packages/etils/epath/gpath.py", True),
        (OSError("Forbidden: b/bucket/o"), "/lib/site-packages/gcsfs/core.py", True),
        (OSError("An error occurred (403)"), "/lib/site-packages/s3fs/core.py", True),
        (RuntimeError("Event loop is closed"), "/lib/asyncio/base_events.py", True),
        (ValueError("a wrong shape"), "/lib/orbax/save.py", False),
        (ValueError("PERMISSION_DENIED: "), "/home/me/experiment.py", False),
        (OSError("no file"), f"{background.OWN}io/files.py", False),
    ],
)
def test_errors_of_storage_within_libraries_are_noise(error, file, is_noise):
    assert background.is_noise(raised(error, file)) == is_noise
    assert not background.is_noise(None)
