"""Runs the application on a port, until a signal stops it."""

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys

import uvicorn

from coca_jax.errors import UserError
from coca_jax.serve.app import make_app
from coca_jax.serve.connections import Connection, Server
from coca_jax.serve.service import Service

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 30
HEADER_BYTES = 2**15  # of a request
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet.

    Raises:
      UserError: the host has no address, it is not this machine's, or the port is not free.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host}: this is neither an address nor a known name") from error
    opened = socket.socket(family, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise _refusal(error, host, port) from error
    return opened


def _refusal(error: OSError, host: str, port: int) -> UserError:
    """The error that says why a server cannot listen at an address."""
    reasons = {
        errno.EADDRINUSE: f"--port {port} is in use at {host}: stop what uses it, or choose "
        "another (0: any that is free)",
        errno.EADDRNOTAVAIL: f"--host {host} is not an address of this machine; 0.0.0.0 is all",
        errno.EACCES: f"--port {port} is reserved: choose one from 1024 on",
    }
    return UserError(reasons.get(error.errno, f"{host}:{port}: {error.strerror or error}"))


def url(opened: socket.socket) -> str:
    """The URL of a server at a socket."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _hosts(opened: socket.socket) -> list[str]:
    """The names that a browser of this machine has for a server at a loopback address.

    Any other name that leads there is one that a web site has pointed at this machine, so that its
    scripts may read the answers (DNS rebinding). At other addresses all names are accepted: [].
    """
    host = opened.getsockname()[0]
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return []
    return ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]


def run(service: Service, opened: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what was accepted, and closes the service.

    A second signal ends it without the requests that the model has not begun.

    Raises:
      UserError: another process has begun to listen there.
    """
    try:
        opened.listen(BACKLOG)
    except OSError as error:
        raise _refusal(error, *opened.getsockname()[:2]) from error
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("uvicorn.error", "coca_jax.serve"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(service, _hosts(opened)),
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=HEADER_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = Server(config)
    # From here on a signal stops the server. uvicorn raises it again when it has stopped.
    before = {number: signal.signal(number, server.handle_exit) for number in SIGNALS}
    print(f"serving at {url(opened)} (process {os.getpid()}; Ctrl-C stops it)", flush=True)
    try:
        server.run(sockets=[opened])
    finally:
        service.close()
        for number, old in before.items():
            signal.signal(number, old)
