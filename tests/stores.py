"""Object stores on loopback for tests: real servers, which can be made to fail."""

import contextlib
import functools
import http.server
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest
from gcp_storage_emulator import server as gcs
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


class Gcs(gcs.RequestHandler):
    """The emulator's handler, with preconditions, which it lacks, and faults.

    Attributes of the server: `requests`, (method, path) of each request; `fault`, called with
    their number: a status to answer with instead, or None.
    """

    def handle_one(self, method: str) -> None:
        """Answers one request, unless a fault comes first."""
        with self.server.lock:
            self.server.requests.append((method, self.path))
            status = self.server.fault(len(self.server.requests))
            status = status or self._precondition()
            if status:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                gcs.Router(self).handle(method)

    def _precondition(self) -> int | None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        wanted = query.get("ifGenerationMatch")
        if wanted is None or "name" not in query:
            return None
        try:
            found = self.storage.get_file_obj(BUCKET, query["name"])["generation"]
        except NotFound:
            found = "0"
        return None if found == wanted else 412

    do_GET = functools.partialmethod(handle_one, gcs.GET)
    do_POST = functools.partialmethod(handle_one, gcs.POST)
    do_PUT = functools.partialmethod(handle_one, gcs.PUT)
    do_PATCH = functools.partialmethod(handle_one, gcs.PATCH)
    do_DELETE = functools.partialmethod(handle_one, gcs.DELETE)


class GcsServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A store of GCS's kind, in memory."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, storage: Storage | None = None):
        self.storage = storage or Storage(use_memory_fs=True)
        self.lock, self.requests = threading.RLock(), []
        self.fault = lambda number: None
        super().__init__(("127.0.0.1", port), functools.partial(Gcs, self.storage))

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["GcsServer"]:
        """Serves in a thread."""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


@contextlib.contextmanager
def gcs_store() -> Iterator[GcsServer]:
    """A server with an empty bucket, to which the environment points this and other processes."""
    store = GcsServer()
    buckets.create_bucket(BUCKET, store.storage)
    with store.running(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", store.address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", store.address)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "test")
        _forget_file_systems()
        yield store
    _forget_file_systems()


@contextlib.contextmanager
def s3_store() -> Iterator[str]:
    """The address of a server with an empty bucket, to which the environment points."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", address)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            _forget_file_systems()
            fsspec.filesystem("s3").makedirs(BUCKET, exist_ok=True)
            yield address
    finally:
        _forget_file_systems()
        server.stop()


def _forget_file_systems() -> None:
    """Drops what fsspec and Orbax's paths keep of file systems: it has a server's address."""
    from etils.epath import backend

    for scheme in ("gs", "s3"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
