"""Rendezvous and liveness of a run's processes: a TCP connection from each one to process 0.

Why it is our own: `jax.distributed.initialize` aborts without naming a process when another one is
missing at the start, and late when one dies. So the processes meet here first, on the same port.
Their connections stay open: all processes learn at once, by name, of a process that dies, and after
`heartbeat_seconds` of one that is silent (it is stopped, or its machine is lost).

A message is one line of JSON; an empty line is a heartbeat. To process 0: `hello` (the first),
`leaving` and `failed`. From it: `go` or `refused` (the first), and `gone`.
"""

import contextlib
import errno
import json
import math
import os
import selectors
import socket
import sys
import threading
import time

from coca_jax.errors import ExitCode, UserError

GOOD = (ExitCode.DONE, ExitCode.PREEMPTED, ExitCode.INCOMPLETE)  # its work is done or saved
MOST_BYTES = 1 << 16  # of a line
REPORT_SECONDS = 10.0  # between two connections about who is still missing


def describe() -> str:
    """This process, for messages of others: its machine and process id."""
    return f"{socket.gethostname()}, pid {os.getpid()}"


class Connection:
    """One end of a connection: sends and receives messages, and knows when it last received."""

    def __init__(self, peer: socket.socket):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.settimeout(5.0)
        self.peer, self.rest, self.heard = peer, b"", time.monotonic()
        self.lock = threading.Lock()

    def send(self, **message: object) -> None:
        """Sends a message, or a heartbeat without one; ignores a connection that is lost."""
        text = json.dumps(message) if message else ""
        with contextlib.suppress(OSError), self.lock:
            self.peer.sendall(text.encode() + b"\n")

    def receive(self) -> list[dict] | None:
        """Messages received; None if the connection is lost or is not of this protocol."""
        try:
            data = self.peer.recv(MOST_BYTES)
            self.heard = time.monotonic()
            *lines, self.rest = (self.rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines if line]
        except TimeoutError:
            return []
        except (OSError, ValueError):
            return None
        good = all(isinstance(message, dict) for message in messages)
        return messages if data and good and len(self.rest) < MOST_BYTES else None

    def is_closed(self) -> bool:
        """Whether the other end has gone; for a time in which it sends nothing."""
        self.peer.settimeout(0)
        try:
            return not self.peer.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.peer.settimeout(5.0)

    def first(self, until: float) -> dict | None:
        """Waits for one message until `time.monotonic()` is `until`; None if none comes."""
        while (left := until - time.monotonic()) > 0:
            self.peer.settimeout(left)
            messages = self.receive()
            if messages is None:
                return None
            if messages:
                self.peer.settimeout(5.0)
                return messages[0]
        return None


def end_this_process(reason: str) -> None:
    """Prints the reason and ends at once: a collective that waits for a lost peer never returns."""
    print(f"\ncoca: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(ExitCode.PEER_LOST)


class PeerMonitor:
    """Watches the connections of a run, in a thread, and ends this process when a peer is lost."""

    def __init__(
        self,
        process: int,
        connections: dict[int, Connection],
        names: dict[int, str],
        seconds: float,
    ):
        self.process, self.connections, self.names, self.seconds = (
            process,
            connections,
            names,
            seconds,
        )
        self.leaving: dict[int, tuple[float, str]] = {}
        self.gone: set[int] = set()
        self.over = self.ending = False
        for run in (self._listen, self._beat):
            threading.Thread(target=run, name="peer-monitor", daemon=True).start()

    def broadcast(self, **message: object) -> None:
        """Sends a message on every connection."""
        for connection in self.connections.values():
            connection.send(**message)

    def leave(self, code: int) -> None:
        """Announces that this process ends on purpose, so that the others need not end at once.

        After an error, process 0 waits for the others, which read it from its service.
        """
        self.ending = code not in GOOD
        self.broadcast(leaving=code)
        until = time.monotonic() + self.seconds + 2
        while self.ending and self.process == 0 and time.monotonic() < until:
            if self.gone >= self.connections.keys():
                return
            time.sleep(0.05)

    def close(self) -> None:
        """Stops watching: from here on the end of a peer does not end this process."""
        self.over = True

    def _beat(self) -> None:
        while not self.over:
            time.sleep(self.seconds / 5)
            self.broadcast()

    def _listen(self) -> None:
        chooser = selectors.DefaultSelector()
        for process, connection in self.connections.items():
            chooser.register(connection.peer, selectors.EVENT_READ, process)
        while not self.over:
            for key, _ in chooser.select(timeout=self.seconds / 10):
                messages = self.connections[key.data].receive()
                if messages is None:
                    chooser.unregister(key.fileobj)
                    self._gone(key.data)
                for message in messages or ():
                    self._read(key.data, message)
            self._look_at_clocks()

    def _name(self, process: int) -> str:
        return f"process {process} ({self.names.get(process, 'unknown')})"

    def _read(self, process: int, message: dict) -> None:
        if "gone" in message:
            self._end(str(message["gone"]))
        elif "leaving" in message:
            said = f"{self._name(process)} left with exit code {message['leaving']}"
            good = message["leaving"] in GOOD  # then its clock starts when it has gone
            self.leaving[process] = (math.inf if good else time.monotonic(), said)
        elif "failed" in message:
            self._end(f"{self._name(process)} failed: {message['failed']}")

    def _gone(self, process: int) -> None:
        self.gone.add(process)
        if process not in self.leaving:
            self._end(f"{self._name(process)} died: its connection closed")
        else:
            since, said = self.leaving[process]
            self.leaving[process] = (min(since, time.monotonic()), said)

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for since, said in self.leaving.values():
            if now - since > self.seconds:
                self._end(f"{said} {now - since:.0f} s ago and this one has not")
        for process, connection in self.connections.items():
            if process not in self.leaving and now - connection.heard > self.seconds:
                self._end(f"{self._name(process)} lost contact: silent for {self.seconds:g} s")

    def _end(self, reason: str) -> None:
        if not (self.over or self.ending):
            self.broadcast(gone=reason)
            end_this_process(f"{reason}; run it again to go on from the last checkpoint")


def _listener(host: str, port: int) -> socket.socket:
    """A listening socket; raises a UserError if the port is in use or not permitted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(1024)
        return listener
    except OSError as error:
        listener.close()
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return _listener("0.0.0.0", port)
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        raise UserError(
            f"port {port} at {host}, which process 0 must listen on, {why}; end what uses it or "
            "name another port for all processes"
        ) from None


def accept_peers(host: str, port: int, count: int, start_seconds: float) -> tuple[dict, dict]:
    """The server, in process 0: waits for all other processes and lets them start.

    Returns the connections and the descriptions by process number. Raises a UserError, here and in
    every process that has connected, which names the processes that are missing after
    `start_seconds`, or a number that two processes have.
    """
    connections: dict[int, Connection] = {}
    names = {0: describe()}
    until, spoken = time.monotonic() + start_seconds, time.monotonic()
    with contextlib.closing(_listener(host, port)) as listener:
        while len(names) < count:
            if time.monotonic() > until:
                _refuse(connections, f"{_missing(names, count)} after {start_seconds:g} s")
            if time.monotonic() - spoken > min(REPORT_SECONDS, start_seconds / 3):
                spoken = time.monotonic()
                print(f"coca: {_missing(names, count)}", file=sys.stderr, flush=True)
            listener.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                _admit(Connection(listener.accept()[0]), connections, names, count)
    for connection in connections.values():
        connection.send(go=names[0])
    return connections, names


def _missing(names: dict, count: int) -> str:
    missing = [str(process) for process in range(count) if process not in names]
    shown = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
    return f"{len(names)} of {count} processes are here; missing: {shown}"


def _admit(connection: Connection, connections: dict, names: dict, count: int) -> None:
    """Adds a process; closes a connection that does not begin with `hello`."""
    hello = connection.first(time.monotonic() + 2) or {}
    process, name = hello.get("hello"), str(hello.get("name"))
    if not isinstance(process, int):
        connection.peer.close()
        return
    if process in connections and connections[process].is_closed():  # and is started again
        connections.pop(process).peer.close()
        del names[process]
    everyone = {**connections, -1: connection}
    if hello.get("count") != count:
        _refuse(everyone, f"process {process} ({name}) says there are {hello.get('count')} "
                f"processes, process 0 says {count}")  # fmt: skip
    if process in names or not 0 <= process < count:
        taken = names.get(process, f"only 0 to {count - 1} are")
        _refuse(everyone, f"process number {process} ({name}) is not free: {taken}")
    connections[process], names[process] = connection, name


def _refuse(connections: dict, reason: str) -> None:
    for connection in connections.values():
        connection.send(refused=reason)
    raise UserError(reason)


def connect(
    host: str, port: int, process: int, count: int, start_seconds: float
) -> tuple[dict, dict]:
    """The client, in every other process: connects to process 0 and waits for its reply.

    Returns its connection and the descriptions of both, by process number. Raises a UserError if
    process 0 does not answer within `start_seconds`, or refuses.
    """
    until = time.monotonic() + start_seconds
    problem = "no answer"
    while time.monotonic() < until:
        try:
            connection = Connection(socket.create_connection((host, port), timeout=5))
        except OSError as error:
            problem = str(error)
            time.sleep(0.2)
            continue
        connection.send(hello=process, count=count, name=describe())
        # Process 0 may have started later: it is the one that reports who is missing.
        reply = connection.first(until + start_seconds)
        if reply and "refused" in reply:
            raise UserError(str(reply["refused"]))
        if reply and "go" in reply:
            return {0: connection}, {0: str(reply["go"]), process: describe()}
        connection.peer.close()
        problem = "what answers is not a run of coca, or it ended"
        time.sleep(0.2)
    raise UserError(
        f"the coordinator (process 0) at {host}:{port} did not answer process {process} within "
        f"{start_seconds:g} s: {problem}; check that process 0 runs and that the port is open"
    )
