"""Keeps libraries' threads from printing errors that are raised in the main thread as well.

Where a disk is full, or a bucket refuses, Orbax, TensorStore, TensorBoard and the file systems
below them print tracebacks from threads and event loops of their own, dozens of them, around the
one message that a person needs.
"""

import functools
import logging
import pathlib
import re
import sys
import sysconfig
import threading
import traceback
import warnings
from typing import Any

LIBRARIES = (
    "/orbax/",
    "/tensorstore/",
    "/tensorboardX/",
    "/asyncio/",
    "/etils/",
    "/fsspec/",
    "/gcsfs/",
    "/s3fs/",
)
# TensorStore's errors of storage: absl's codes for what is not the caller's fault.
STATUS = re.compile(
    "(ABORTED|DATA_LOSS|DEADLINE_EXCEEDED|INTERNAL|NOT_FOUND|PERMISSION_DENIED|RESOURCE_EXHAUSTED|"
    "UNAUTHENTICATED|UNAVAILABLE|UNKNOWN): "
)
STANDARD = sysconfig.get_path("stdlib") + "/"
OWN = str(pathlib.Path(__file__).parents[1]) + "/"


@functools.cache
def hush() -> None:
    """From now on, libraries' threads do not print errors of storage or of a closed event loop.

    What is raised in the main thread, in coca_jax or in a user's own code is printed as ever.
    """
    hook, thread_hook, last_hook = sys.excepthook, threading.excepthook, sys.unraisablehook

    def foreign(kind: type, error: BaseException, trace: Any) -> None:
        # In other threads than the main one only callbacks of TensorStore's come here.
        main = threading.current_thread() is threading.main_thread()
        if main or not is_noise(error):
            hook(kind, error, trace)

    def in_thread(arguments: Any) -> None:
        if not is_noise(arguments.exc_value):
            thread_hook(arguments)

    def at_exit(arguments: Any) -> None:
        if not is_noise(arguments.exc_value):
            last_hook(arguments)

    sys.excepthook, threading.excepthook, sys.unraisablehook = foreign, in_thread, at_exit
    logging.getLogger("asyncio").addFilter(_is_news)
    # At exit, the interpreter warns about the coroutines of a save that failed.
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)


def is_noise(error: BaseException | None) -> bool:
    """Whether an error is of storage or of an event loop that is gone, and of libraries' own work.

    That is, no code but a library's, or Python's, has called what failed.
    """
    if error is None:
        return False
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    outer = [file for file in files if not file.startswith(STANDARD) or "-packages/" in file]
    of_library = any(name in file for file in outer[:1] or files for name in LIBRARIES)
    own = any(file.startswith(OWN) for file in files)
    storage = isinstance(error, OSError) or STATUS.search(str(error)) is not None
    return of_library and not own and (storage or str(error) == "Event loop is closed")


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_noise(record.exc_info[1]))
