"""Clients that are slow, silent or gone, at a server that runs in a thread."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import types

import numpy as np
import pytest
import uvicorn

from coca_jax.inference import LoadedModel
from coca_jax.models import ImageConfig
from coca_jax.serve import connections
from coca_jax.serve import server as serving
from coca_jax.serve.app import make_app
from coca_jax.serve.limits import Limits
from coca_jax.serve.service import Served, Service


class Model(LoadedModel):
    """Embeds texts, once `ready` is set."""

    image = ImageConfig(size=32, patch=16)
    config = types.SimpleNamespace(has_cls=True, captioning=False, head=None, image=image)
    step, classes, params = 0, (), {"logit_scale": np.zeros(())}

    def __init__(self):
        self.batches, self.ready = 0, threading.Event()
        self.ready.set()

    def tokenize(self, texts):
        return np.zeros((len(texts), 1), np.int32)

    def encode_text(self, ids):
        self.batches += 1
        assert self.ready.wait(20)
        return np.full((len(ids), 512), 1 / 3, np.float32)


class Running:
    """A server that is up."""

    def __init__(self, limits):
        self.model = Model()
        self.service = Service(Served(self.model), limits)
        opened = serving.bind("127.0.0.1", 0)
        opened.listen()
        self.port = opened.getsockname()[1]
        config = uvicorn.Config(
            make_app(self.service, ["localhost"]),
            http=connections.Connection,
            log_config=None,
            lifespan="off",
            h11_max_incomplete_event_size=serving.HEADER_BYTES,
        )
        self.server = connections.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([opened],))
        self.thread.start()

    def connect(self, data):
        """A connection that has sent data, and reads little at a time."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    def close(self):
        self.model.ready.set()
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(20)
        self.service.close()


@pytest.fixture
def start(monkeypatch):
    """Starts a server with other times."""
    started = []

    def start(queue=8, max_batch=1, **seconds):
        for name, value in seconds.items():
            monkeypatch.setattr(connections, name, value)
        started.append(Running(Limits(max_batch=max_batch, max_latency=0.0, queue=queue)))
        return started[0]

    yield start
    for running in started:
        running.close()


def embed(texts=1, length=None, host="localhost"):
    body = json.dumps({"texts": ["a"] * texts}).encode()
    head = (
        f"POST /v1/embed HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + (b"" if length else body)


def status(client):
    return int(client.recv(100).split()[1])


def until(reached, seconds=5):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_headers_must_be_small_and_come_in_time(start):
    running = start(HEADER_SECONDS=0.3)
    with running.connect(b"GET /healthz HTTP/1.1\r\nHost: ") as client:
        assert client.recv(100) == b""
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running.connect(get) as client:
        assert status(client) == 200
        client.recv(1000)
        client.sendall(get[:9])  # the next request
        with contextlib.suppress(ConnectionResetError):
            while client.recv(1000):
                pass
    with running.connect(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000) as client:
        assert status(client) == 400


def test_bodies_that_do_not_come_take_no_places(start):
    running = start(queue=2)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(running.connect(embed(length=2**25)))
        until(lambda: running.service.admission._bodies == 40)
        with running.connect(embed()) as client:
            assert status(client) == 200
    until(lambda: running.service.admission._bodies == 0)


def test_a_place_is_held_until_the_answer_is_read(start):
    running = start(SEND_SECONDS=1.0)
    admission = running.service.admission
    with running.connect(embed(texts=1024)) as client:
        until(lambda: admission._bytes and running.model.batches)
        assert status(client) == 200
        time.sleep(0.3)
        assert admission.count == 1 and admission._bytes > 0
        until(lambda: admission.count == 0)  # the client is dropped
        assert admission._bytes == 0
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**20):
                pass


def test_requests_of_clients_that_have_gone_are_not_run(start):
    running = start()
    running.model.ready.clear()
    first = running.connect(embed())
    until(lambda: running.model.batches == 1)
    gone = [running.connect(embed()) for _ in range(3)]
    until(lambda: running.service.admission.count == 4)
    for client in gone:
        client.close()
    until(lambda: running.service.admission.count == 1)
    running.model.ready.set()
    assert status(first) == 200
    with running.connect(embed()) as client:
        assert status(client) == 200
    assert running.model.batches == 2
    first.close()


@pytest.mark.parametrize(("signals", "seconds"), [(1, 0.5), (2, 60.0)])
def test_a_client_that_does_not_read_does_not_keep_a_server_up(start, signals, seconds):
    running = start(SEND_SECONDS=seconds, GRACE_SECONDS=0.1)
    with running.connect(embed(texts=1024)) as client:
        assert status(client) == 200
        for _ in range(signals):
            running.server.handle_exit(signal.SIGTERM, None)
            running.thread.join(0.3)
        running.thread.join(5)
        assert not running.thread.is_alive()


def test_a_signal_as_soon_as_the_url_is_printed_stops_the_server(monkeypatch):
    monkeypatch.setattr("builtins.print", lambda *args, **kw: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    serving.run(Service(Served(Model()), Limits()), serving.bind("127.0.0.1", 0))
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_names_of_a_server_at_loopback_are_refused(start):
    running = start()
    for host, expected in (("localhost:80", 200), ("rebound.example", 421), ("", 421)):
        with running.connect(embed(host=host)) as client:
            assert status(client) == expected
    with serving.bind("127.0.0.1", 0) as opened:
        assert {"localhost", "127.0.0.1", "[::1]"} <= set(serving._hosts(opened))
    with serving.bind("0.0.0.0", 0) as opened:
        assert serving._hosts(opened) == []
