"""Being asked to stop: SIGTERM and Ctrl-C become a flag that a loop reads now and then."""

import contextlib
import signal
from collections.abc import Iterator


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    def __init__(self):
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within it, the first SIGTERM or SIGINT is noted; a second one of the kind acts as usual.

    Enter it after `jax.distributed.initialize`, which installs a SIGTERM handler of its own.
    """
    request = StopRequest()
    kinds = (signal.SIGTERM, signal.SIGINT)

    def note(number: int, frame: object) -> None:
        del frame
        request.signal = signal.Signals(number).name
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in kinds}
    for number in kinds:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in kinds:
            signal.signal(number, before[number])
