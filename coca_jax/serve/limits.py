"""Limits on what the server takes in at one time and in one request."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from coca_jax.serve.errors import RequestError

HELD_BYTES = 2**30  # of all requests that are in progress
BODY_SECONDS = 60.0  # in which the whole body of a request must have come
MAX_IMAGES = 1024  # of one request, whatever `max_batch` is
MAX_TEXTS = 1024  # of one request
MAX_FIELDS = 64  # of one request
MAX_MARKS = 2**18  # commas and brackets of a request in JSON, which bound what it is parsed to
MAX_CHARACTERS = 4000  # of one text
RETRY_SECONDS = 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that the command's flags set."""

    max_batch: int = 32  # images of one request, too
    max_latency: float = 0.005  # seconds
    queue: int = 256  # requests in progress
    max_bytes: int = 2**25  # of a request, and of an image at a URL
    max_pixels: int = 40_000_000  # of an image
    allow_urls: bool = False


class Admission:
    """Counts the requests that are in progress, and refuses those that would be too many."""

    def __init__(self, requests: int, held_bytes: int = HELD_BYTES):
        self._most, self._most_bytes = requests, held_bytes
        self._lock, self._count, self._bytes = threading.Lock(), 0, 0

    @property
    def count(self) -> int:
        """The number of requests in progress."""
        return self._count

    @contextlib.contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Holds a place for a request of this many bytes.

        Raises:
          RequestError: there is none left (503); one alone is always admitted.
        """
        with self._lock:
            if self._count and (self._count >= self._most or self._bytes + size > self._most_bytes):
                raise RequestError(
                    503,
                    "the server has as many requests as it can hold; try again",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                )
            self._count += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                self._bytes -= size
