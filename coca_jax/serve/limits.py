"""Limits on what the server takes in at one time and in one request."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from coca_jax.serve.errors import RequestError

HELD_BYTES = 2**30  # of all requests that are in progress
MAX_BODIES = 512  # that are coming at one time
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

    max_batch: int = 32  # images, and of one request, too, up to MAX_IMAGES
    max_latency: float = 0.005  # seconds
    queue: int = 256  # requests in progress
    max_bytes: int = 2**25  # of a request, and of an image at a URL
    max_pixels: int = 40_000_000  # of an image
    allow_urls: bool = False

    @property
    def max_images(self) -> int:
        """Images of one request at most."""
        return min(self.max_batch, MAX_IMAGES)


class Place:
    """A request's bytes, and its place among those in progress once it has come whole."""

    def __init__(self, admission: "Admission"):
        self._admission, self._size, self._counted = admission, 0, False

    def add(self, size: int) -> None:
        """Counts bytes that have come.

        Raises:
          RequestError: all requests would have too many (503); one alone may always have them.
        """
        self._admission.hold(size, self._size)
        self._size += size

    def take(self) -> None:
        """Becomes one of the requests in progress.

        Raises:
          RequestError: there are too many (503).
        """
        self._admission.begin()
        self._counted = True

    def give_back(self) -> None:
        """Frees what it has taken; at a second call nothing."""
        self._admission.end(self._size, self._counted)
        self._size, self._counted = 0, False


class Admission:
    """Counts the requests that come and those in progress, and refuses those too many."""

    def __init__(self, requests: int, held_bytes: int = HELD_BYTES, bodies: int = MAX_BODIES):
        self._most, self._most_bytes, self._most_bodies = requests, held_bytes, bodies
        self._lock, self._count, self._bytes, self._bodies = threading.Lock(), 0, 0, 0

    @property
    def count(self) -> int:
        """The number of requests in progress."""
        return self._count

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Place]:
        """A place for a request whose body comes; the caller gives it back.

        Raises:
          RequestError: too many bodies are coming, or requests are in progress (503).
        """
        with self._lock:
            if self._bodies >= self._most_bodies or self._count >= self._most:
                raise _full()
            self._bodies += 1
        try:
            yield Place(self)
        finally:
            with self._lock:
                self._bodies -= 1

    @contextlib.contextmanager
    def admitted(self, size: int = 0) -> Iterator[None]:
        """Holds a place for a request of this many bytes, all of which are there.

        Raises:
          RequestError: there is none left (503).
        """
        place = Place(self)
        try:
            place.add(size)
            place.take()
            yield
        finally:
            place.give_back()

    def hold(self, size: int, own: int) -> None:
        """Counts bytes of a place that has `own` already; see `Place.add`."""
        with self._lock:
            if self._bytes > own and self._bytes + size > self._most_bytes:
                raise _full()
            self._bytes += size

    def begin(self) -> None:
        """Counts a request; see `Place.take`."""
        with self._lock:
            if self._count >= self._most:
                raise _full()
            self._count += 1

    def end(self, size: int, counted: bool) -> None:
        """Takes back what a place has counted."""
        with self._lock:
            self._bytes -= size
            self._count -= counted


def _full() -> RequestError:
    message = "the server has as many requests as it can hold; try again"
    return RequestError(503, message, headers={"Retry-After": str(RETRY_SECONDS)})
