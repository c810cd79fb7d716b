"""Fetches images at URLs that clients name, from public addresses only."""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence

from coca_jax.serve.errors import RequestError

SECONDS = 15.0  # for a whole image
REDIRECTS = 3
KEPT = "/%:@!$&'()*+,;=~-._?"  # characters of a path and a query that stay
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # all that is allocated to the public internet
RELAYS = ipaddress.ip_network("192.88.99.0/24")  # once from IPv4 to 6to4, RFC 7526

Resolve = Callable[[str, int], Sequence[str]]  # the addresses of a host


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host.

    Raises:
      OSError: it has none.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [info[4][0] for info in infos]


def is_public(address: str) -> bool:
    """Whether an address, and the IPv4 address that it may contain, is of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # such as fe80::1%eth0
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed.is_global and not parsed.is_multicast and parsed not in RELAYS
    if parsed in NAT64:
        return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    contained = [parsed.sixtofour, *(parsed.teredo or ())]
    return (
        parsed in GLOBAL_IPV6
        and parsed.is_global
        and all(is_public(str(one)) for one in contained if one is not None)
    )


class Fetcher:
    """Fetches files of public servers.

    A host is resolved once, and the connection goes to the address that was checked: a name server
    cannot answer the check and the connection differently. Redirects are checked in the same way.
    """

    def __init__(
        self,
        max_bytes: int,
        resolve: Resolve = resolve,
        is_allowed: Callable[[str], bool] = is_public,
        seconds: float = SECONDS,
    ):
        self._max_bytes, self._resolve, self._is_allowed = max_bytes, resolve, is_allowed
        self._seconds = seconds

    def __call__(self, url: str) -> bytes:
        """The content of a file.

        Raises:
          RequestError: the URL may not be fetched, or cannot be (422); the file is too large (413).
        """
        deadline = time.monotonic() + self._seconds
        try:
            for _ in range(REDIRECTS + 1):
                content, location = self._get(url, deadline)
                if location is None:
                    return content
                url = urllib.parse.urljoin(url, location)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The reason stays here: it would tell a client about the server's network.
            raise RequestError(422, "the URL of an image cannot be fetched") from error
        raise RequestError(422, "the URL of an image redirects too often")

    def _get(self, url: str, deadline: float) -> tuple[bytes, str | None]:
        """The content, or where the server redirects to."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
            raise RequestError(422, "the URL of an image must be http://HOST/... or https://...")
        port = parts.port or PORTS[parts.scheme]
        address = self._address(parts.hostname, port)
        remaining = deadline - time.monotonic()  # names take time, too
        if remaining <= 0:
            raise TimeoutError(url)
        connection = _Connection(parts.scheme, parts.hostname, port, address, remaining)
        timer = threading.Timer(remaining, connection.abort)
        timer.start()
        try:
            connection.request("GET", _target(parts), headers=HEADERS)
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in (301, 302, 303, 307, 308) and location:
                return b"", location
            if response.status != 200:
                raise RequestError(
                    422, f"the URL of an image cannot be fetched: status {response.status}"
                )
            content = response.read(self._max_bytes + 1)
            if len(content) > self._max_bytes:
                raise RequestError(
                    413, f"the image at a URL has more than {self._max_bytes:,} bytes"
                )
            if time.monotonic() > deadline:  # what was read may end there
                raise TimeoutError(url)
            return content, None
        finally:
            timer.cancel()
            connection.close()

    def _address(self, host: str, port: int) -> str:
        """The first address of a host, if all of its addresses are public."""
        addresses = self._resolve(host, port)
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise RequestError(422, "the URL of an image does not lead to a public address")
        return addresses[0]


def _target(parts: urllib.parse.SplitResult) -> str:
    """The path and query of a URL, with what may not stand in a request escaped."""
    path, query = (urllib.parse.quote(part, safe=KEPT) for part in (parts.path, parts.query))
    return f"{path or '/'}?{query}" if query else path or "/"


class _Connection(http.client.HTTPConnection):
    """A connection to a given address, whatever the host's name resolves to by now."""

    def __init__(self, scheme: str, host: str, port: int, address: str, seconds: float):
        super().__init__(host, port, timeout=seconds)
        self.default_port = PORTS[scheme]  # others stand in the header `Host`
        self._scheme, self._address, self._socket = scheme, address, None
        self._aborted = False

    def connect(self) -> None:
        """Connects to the address; a certificate must be the host's."""
        self._socket = socket.create_connection((self._address, self.port), self.timeout)
        if self._aborted:  # before there was a socket to shut down
            self._socket.close()
            raise TimeoutError(self.host)
        if self._scheme == "https":
            context = ssl.create_default_context()
            self._socket = context.wrap_socket(self._socket, server_hostname=self.host)
        self.sock = self._socket

    def abort(self) -> None:
        """Ends the connection, from another thread: what waits for it sees its end."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
