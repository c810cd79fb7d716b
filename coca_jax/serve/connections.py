"""Connections with limits of time, and a server that stops in spite of clients that do not read."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0  # in which the headers of a request must have come
SEND_SECONDS = 20.0  # in which a client must read on
GRACE_SECONDS = 5.0  # for the last bytes, once all requests are answered


class Connection(H11Protocol):
    """A connection that ends if headers do not come, or if answers are not read."""

    _headers: Any = None  # timers, which are of the event loop's kind
    _reading: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for headers."""
        super().connection_made(transport)
        self._headers = self._later(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Takes data; the time for headers begins with the first byte of a request."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers = _cancelled(self._headers)
        elif self._headers is None:
            self._headers = self._later(HEADER_SECONDS)

    def pause_writing(self) -> None:
        """Begins to wait for the client to read, as too much is not yet sent."""
        super().pause_writing()
        self._reading = self._later(SEND_SECONDS)

    def resume_writing(self) -> None:
        """Goes on after the client has read."""
        super().resume_writing()
        self._reading = _cancelled(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers."""
        self._headers, self._reading = _cancelled(self._headers), _cancelled(self._reading)
        super().connection_lost(exc)

    def _later(self, seconds: float) -> Any:
        return self.loop.call_later(seconds, self.transport.abort)


def _cancelled(timer: Any) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Stops once all requests are answered; at a second signal of any kind at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        super().handle_exit(signal.SIGINT if self.should_exit else sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finishes the requests, and drops connections that do not take the rest."""
        ending = asyncio.create_task(self._drop())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _drop(self) -> None:
        """Waits for the requests' ends, then ends the connections."""
        await self._until(lambda: not self.server_state.tasks, None)
        await self._until(lambda: not self.server_state.connections, GRACE_SECONDS)
        for connection in [*self.server_state.connections]:
            connection.transport.abort()

    async def _until(self, reached: Callable[[], bool], seconds: float | None) -> None:
        end = None if seconds is None else asyncio.get_running_loop().time() + seconds
        while not reached() and not self.force_exit:
            if end is not None and asyncio.get_running_loop().time() >= end:
                return
            await asyncio.sleep(0.02)
