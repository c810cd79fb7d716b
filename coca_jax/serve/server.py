"""Runs the application on a port, until a signal stops it."""

import errno
import logging
import os
import signal
import socket
import sys

import uvicorn

from coca_jax.errors import UserError
from coca_jax.serve.app import make_app
from coca_jax.serve.service import Service

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 30
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet.

    Raises:
      UserError: the host has no address, it is not this machine's, or the port cannot be had.
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
    """Says why an address cannot be had."""
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


def run(service: Service, opened: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what was accepted, and closes the service.

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
        make_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    # uvicorn raises the signal again when it has stopped, for these.
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    print(f"serving at {url(opened)} (process {os.getpid()}; Ctrl-C stops it)", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[opened])
    finally:
        service.close()
        for number, old in before.items():
            signal.signal(number, old)
