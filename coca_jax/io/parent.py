"""Child processes that end when their parent does, however it ends."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def end_with_parent() -> None:
    """Ends this worker process of `multiprocessing` as soon as its parent has ended.

    Workers otherwise outlive a parent that was killed, and wait for work forever. Call it once, in
    the worker. Does nothing in a process that `multiprocessing` did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def kill_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends; elsewhere it does nothing.

    For `subprocess.Popen(preexec_fn=...)`: it outlasts the `exec` that follows.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
