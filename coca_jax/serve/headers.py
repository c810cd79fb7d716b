"""Headers for browsers: what they load and run is the server's, and its answers are its own."""

import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Middleware that adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp):
        """Wraps an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Any = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class KnownHosts:
    """Middleware that refuses requests which name another host."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        """Wraps an application; without hosts all names are accepted."""
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else None
        if not self._hosts or host is None or re.sub(r":\d*$", "", host.lower()) in self._hosts:
            await self._app(scope, receive, send)
            return
        message = f"the header Host must be one of {', '.join(self._hosts)} at this address"
        await JSONResponse({"error": {"message": message}}, 421)(scope, receive, send)
