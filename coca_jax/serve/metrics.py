"""The server's figures, as Prometheus reads them."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self):
        """Begins at zero."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "coca_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "coca_request_seconds",
            "Time from a request's headers to its answer.",
            ["path"],
            registry=registry,
            buckets=SECONDS,
        )
        self._rows = Histogram(
            "coca_batch_rows",
            "Images or texts of a batch.",
            ["operation"],
            registry=registry,
            buckets=ROWS,
        )
        self._batch_seconds = Histogram(
            "coca_batch_seconds",
            "Time of the model for a batch.",
            ["operation"],
            registry=registry,
            buckets=SECONDS,
        )
        self._failures = Counter(
            "coca_failures", "Requests that an unexpected error ended.", registry=registry
        )

    def watch(self, in_progress: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Adds two figures that are computed whenever the metrics are read."""
        requests = Gauge(
            "coca_requests_in_progress", "Requests not yet answered.", registry=self._registry
        )
        requests.set_function(in_progress)
        rows = Gauge(
            "coca_queue_rows", "Images or texts that wait for the model.", registry=self._registry
        )
        rows.set_function(waiting)

    def batch(self, key: Any, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._rows.labels(key.operation).observe(rows)
        self._batch_seconds.labels(key.operation).observe(seconds)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answered request of an endpoint."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def failure(self) -> None:
        """Counts an unexpected error."""
        self._failures.inc()

    def text(self) -> tuple[bytes, str]:
        """All figures, and the content type of this text."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
