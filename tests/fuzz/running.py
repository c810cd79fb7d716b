"""Runs a check on many drawn inputs: the same few each time, or others for as long as asked for.

COCA_FUZZ_SECONDS: how long each test draws more; COCA_FUZZ_SEED: where that begins, 0 by default.
"""

import contextlib
import faulthandler
import itertools
import math
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

SECONDS = float(os.environ.get("COCA_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("COCA_FUZZ_SEED", "0"))
INPUT_SECONDS = 20  # for one input; what takes longer hangs
ROUND = 200  # inputs of a seed, when more are asked for
COUNTS = Counter()  # inputs by the test


def fuzz(inputs, **strategies):
    """Makes a test of a check, which is given an empty folder and what the strategies draw.

    Args:
      inputs: how many to draw, unless COCA_FUZZ_SECONDS is set.
      **strategies: by the names of the check's other arguments.
    """

    def decorate(check):
        name = f"{Path(check.__code__.co_filename).stem}.{check.__name__}"
        end = math.inf

        def run_one(**drawn):
            if time.monotonic() > end:  # the rest of a round
                return
            COUNTS[name] += 1
            with tempfile.TemporaryDirectory() as folder, _limited():
                check(Path(folder), **drawn)

        def test():
            nonlocal end
            if not SECONDS:
                _run(run_one, strategies, max_examples=inputs, derandomize=True)
                return
            end = time.monotonic() + SECONDS
            for number in itertools.count(SEED):
                _run(seed(number)(run_one), strategies, max_examples=ROUND)
                if time.monotonic() > end:
                    return

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def _run(check, strategies, **options):
    options |= {"phases": [Phase.generate, Phase.shrink], "suppress_health_check": HealthCheck}
    options |= {"deadline": None, "database": None, "print_blob": False}
    settings(**options, report_multiple_bugs=False)(given(**strategies)(check))()


class _Late(BaseException):
    """Not an Exception, which the code under test may catch."""


@contextlib.contextmanager
def _limited():
    """Ends what takes too long; the interpreter itself if that is within a library's call."""

    def stop(*_):
        raise _Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, INPUT_SECONDS)
    faulthandler.dump_traceback_later(3 * INPUT_SECONDS, exit=True)
    try:
        yield
    except _Late as late:
        raise AssertionError(f"an input takes more than {INPUT_SECONDS} s") from late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
