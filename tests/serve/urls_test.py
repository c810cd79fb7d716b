import contextlib
import http.server
import socket
import threading
import time

import pytest

from coca_jax.serve.errors import RequestError
from coca_jax.serve.urls import Fetcher, is_public

PRIVATE = [
    *("127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:db8::1"),
    *("::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "fec0::1"),
    *("192.88.99.1", "2002:c058:6301::", "5f00::1"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"]
MALFORMED = (
    "file:///etc/passwd",
    "ftp://a/b",
    "http://",
    "http://u:p@a/",
    "gopher://a",
    "http://a:b/",
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `pages`: content, (content, status, location), or a function."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Host"]))
        page = self.server.pages[self.path]
        if callable(page):
            page(self)
            return
        content, status, location = page if isinstance(page, tuple) else (page, 200, None)
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetcher(addresses, **options):
    """A fetcher for which names have these addresses and 127.0.0.1 is public, and its lookups."""
    lookups = []

    def resolve(host, port):
        lookups.append(host)
        return addresses[host]

    return Fetcher(100, resolve, lambda a: a == "127.0.0.1" or is_public(a), **options), lookups


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_but_a_public_one_is_connected_to(address, monkeypatch):
    assert not is_public(address)

    def connect(*args):
        raise AssertionError("no connection may be opened")

    monkeypatch.setattr("socket.create_connection", connect)
    for addresses in ([address], ["8.8.8.8", address], []):
        fetch = Fetcher(100, lambda host, port, found=addresses: found)
        with pytest.raises(RequestError, match="public address") as refused:
            fetch("http://innocent.example/a.png")
        assert refused.value.status == 422 and address not in str(refused.value)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("url", MALFORMED)
def test_only_plain_web_addresses_are_taken(url):
    with pytest.raises(RequestError) as refused:
        Fetcher(100, lambda host, port: ["8.8.8.8"])(url)
    assert refused.value.status == 422


def test_a_name_is_resolved_once_and_that_address_is_used(server):
    server.pages = {"/a%20b.png?x=1": b"pixels"}
    fetch, lookups = fetcher({"images.example": ["127.0.0.1"]})
    port = server.server_address[1]
    assert fetch(f"http://images.example:{port}/a b.png?x=1") == b"pixels"
    assert lookups == ["images.example"]
    assert server.seen == [("/a%20b.png?x=1", f"images.example:{port}")]


def test_redirects_are_followed_to_public_addresses_only(server):
    port = server.server_address[1]
    server.pages = {
        "/": (b"", 302, "/moved"),
        "/moved": b"pixels",
        "/in": (b"", 302, f"http://inner.example:{port}/moved"),
        "/file": (b"", 302, "file:///etc/passwd"),
        "/loop": (b"", 302, "/loop"),
        "/none": (b"secret", 404, None),
    }
    fetch, _ = fetcher({"a.example": ["127.0.0.1"], "inner.example": ["10.1.2.3"]})
    base = f"http://a.example:{port}"
    assert fetch(base) == b"pixels"
    refusals = {"/in": "public", "/file": "http://", "/loop": "too often", "/none": "status 404"}
    for path, message in refusals.items():
        with pytest.raises(RequestError, match=message) as refused:
            fetch(base + path)
        assert refused.value.status == 422 and "secret" not in str(refused.value)


def test_large_and_slow_files_are_given_up(server):
    def drip(handler):
        with contextlib.suppress(OSError):
            handler.send_response(200)
            handler.end_headers()
            for _ in range(50):
                handler.wfile.write(b"x")
                time.sleep(0.05)

    server.pages = {"/large": b"x" * 101, "/fits": b"x" * 100, "/slow": drip}
    fetch, _ = fetcher({"a.example": ["127.0.0.1"]}, seconds=0.3)
    base = f"http://a.example:{server.server_address[1]}"
    assert len(fetch(f"{base}/fits")) == 100
    with pytest.raises(RequestError) as refused:
        fetch(f"{base}/large")
    assert refused.value.status == 413
    begin = time.monotonic()
    with pytest.raises(RequestError, match="cannot be fetched"):
        fetch(f"{base}/slow")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("connects", [0.0, 0.6])
def test_names_and_connections_that_take_long_count_for_the_limit(server, monkeypatch, connects):
    """The limit passes before there is a connection to end."""
    create = socket.create_connection

    def connect(*args):
        time.sleep(connects)
        return create(*args)

    def drip(handler):
        with contextlib.suppress(OSError):
            handler.send_response(200)
            handler.end_headers()
            for _ in range(40):
                handler.wfile.write(b"x")
                time.sleep(0.05)

    def resolve(host, port):
        time.sleep(0.0 if connects else 0.4)
        return ["127.0.0.1"]

    monkeypatch.setattr("socket.create_connection", connect)
    server.pages = {"/": drip}
    fetch = Fetcher(100, resolve, lambda address: True, seconds=0.3)
    begin = time.monotonic()
    with pytest.raises(RequestError, match="cannot be fetched"):
        fetch(f"http://a.example:{server.server_address[1]}/")
    assert time.monotonic() - begin < 1.5
