"""Files at http:// and https://: byte ranges, retries, causes in words; copies where needed.

A server that does not answer requests for parts, such as `python -m http.server`, is asked for the
whole file once, which is kept in the cache while the server's ETag or Last-Modified stays.
"""

import hashlib
import io
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

TRIES, PAUSE = 4, 0.5  # seconds before the second try; twice as many before the next
MAX_PAUSE = 30.0
TIMEOUT = (30.0, 60.0)  # seconds to connect, and for the next bytes
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
CHUNK = 4 << 20  # bytes that are asked for at a time of a file that is read from its beginning
PATIENCE = 3600.0  # seconds to wait for another process to copy a file

_copies: dict[str, Path] = {}  # by URL, of servers without ranges
_threads = threading.local()  # a session is for one thread


def is_http(path: str) -> bool:
    """Whether a path is a URL of a web server."""
    return path.startswith(("http://", "https://"))


def shown(path: str) -> str:
    """A URL for messages: without what may be secret, its query and a password."""
    if not is_http(path):
        return path
    path = re.sub(r"^(https?://)[^/?#]*@", r"\1...@", path)
    return re.sub(r"\?.*", "?...", path, flags=re.DOTALL)


def stamp(url: str) -> tuple[int, str]:
    """Size and version of a file; one without ranges is copied.

    Raises:
      FileNotFoundError: it is not there.
      OSError: the server refuses it, or cannot be reached.
    """
    status, headers, _ = _part(url, 0, 1)
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if status == 200:
        return _copy(url).stat().st_size, version
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if status == 416:
        return 0, version
    if not total.isdigit():
        raise OSError(f"{shown(url)}: the server does not say how large it is")
    return int(total), version


def is_file(url: str) -> bool:
    """Whether a server has a file.

    Raises:
      OSError: the server refuses to say, or cannot be reached.
    """
    try:
        stamp(url)
    except FileNotFoundError:
        return False
    return True


def read_bytes(url: str) -> bytes:
    """The content of a file, by one request.

    Raises:
      OSError: see `stamp`.
    """

    def get(session: Any) -> bytes:
        with session.get(url, timeout=TIMEOUT) as response:
            _check(url, response)
            return response.content

    return _tried(url, get)


def read_range(url: str, offset: int, size: int) -> bytes:
    """The bytes from an offset on; fewer where the file ends.

    Raises:
      OSError: see `stamp`.
    """
    if size <= 0:
        return b""
    if url not in _copies:
        status, _, data = _part(url, offset, size)
        if status != 200:
            return data
        _copy(url)
    with open(_copies[url], "rb") as file:
        return os.pread(file.fileno(), size, offset)


def open_binary(url: str) -> io.BufferedReader:
    """A file to read from its beginning, with seek."""
    return io.BufferedReader(_Remote(url), CHUNK)


class _Remote(io.RawIOBase):
    def __init__(self, url: str):
        self._url, self._at = url, 0
        self._size, _ = stamp(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = read_range(self._url, self._at, min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _part(url: str, offset: int, size: int) -> tuple[int, Any, bytes]:
    """Status, headers and bytes of a range; no bytes if the server has no ranges (200)."""

    def get(session: Any) -> tuple[int, Any, bytes]:
        wanted = {"Range": f"bytes={offset}-{offset + size - 1}"}
        with session.get(url, headers=wanted, stream=True, timeout=TIMEOUT) as response:
            _check(url, response)
            if response.status_code != 206:
                return response.status_code, response.headers, b""
            content_range = response.headers.get("Content-Range", "")
            if not content_range.startswith(f"bytes {offset}-"):
                raise OSError(
                    f"{shown(url)}: asked for byte {offset}, the server gave {content_range!r}"
                )
            return 206, response.headers, response.content[:size]

    return _tried(url, get)


def _copy(url: str) -> Path:
    """Copies a whole file to the cache, unless it is there.

    Where the server sends nothing by which a change is seen, it is copied once in each process.
    """
    from coca_jax.io.files import cache_folder
    from coca_jax.io.locks import locked

    def get(session: Any) -> Path:
        with session.get(url, stream=True, timeout=TIMEOUT) as response:
            _check(url, response)
            version = [response.headers.get(key, "") for key in ("ETag", "Last-Modified")]
            if not any(version) and url in _copies:
                return _copies[url]
            origin = [url, *version, response.headers.get("Content-Length", "")]
            name = hashlib.sha256("\n".join(origin).encode("utf-8", "surrogateescape")).hexdigest()
            folder = cache_folder("downloads") / name[:32]
            path = folder / "file"
            with locked(folder, "filled", patience=PATIENCE):
                if not path.is_file() or not any(version):
                    _save(url, response, path)
            return path

    _copies[url] = _tried(url, get)
    return _copies[url]


def _save(url: str, response: Any, path: Path) -> None:
    from tqdm import tqdm

    from coca_jax.io.files import atomic, remove_temporaries

    remove_temporaries(path.parent)
    total = int(response.headers.get("Content-Length") or 0) or None
    why = "the server does not answer requests for parts"
    print(f"{shown(url)}: {why}; the file is copied once, to {path}", file=sys.stderr)
    with (
        atomic(path) as temporary,
        open(temporary, "wb") as file,
        tqdm(total=total, unit="B", unit_scale=True, delay=1, desc="copying") as bar,
    ):
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))


def _check(url: str, response: Any) -> None:
    """Raises what a status means; statuses that may pass raise `_Transient`."""
    status = response.status_code
    if status in (200, 206, 416):
        return
    text = f"{shown(url)}: HTTP status {status} ({response.reason})"
    if status in TRANSIENT:
        wait = response.headers.get("Retry-After", "")
        raise _Transient(text, float(wait) if wait.isdigit() else 0.0)
    kinds = {401: PermissionError, 403: PermissionError}
    kinds |= {404: FileNotFoundError, 410: FileNotFoundError}
    raise kinds.get(status, OSError)(text)


class _Transient(Exception):
    """A temporary failure: a message, and the seconds to wait that the server asks for."""


def _tried(url: str, get: Any) -> Any:
    """The result of a request, which is repeated after temporary failures."""
    import requests

    permanent = (
        *(requests.exceptions.SSLError, requests.exceptions.TooManyRedirects),
        *(requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema),
    )
    for attempt in range(TRIES):
        wait = 0.0
        try:
            return get(_session())
        except permanent as error:
            raise OSError(f"{shown(url)}: {_cause(error)}") from None
        except _Transient as error:
            text, wait = error.args
        except requests.RequestException as error:
            text = f"{shown(url)}: {_cause(error)}"
        if attempt + 1 < TRIES:
            time.sleep(min(max(wait, PAUSE * 2**attempt), MAX_PAUSE))
    raise OSError(f"{text}; tried {TRIES} times")


def _cause(error: Exception) -> str:
    """The cause of a connection's failure, without the URL's query that messages may contain."""
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection ({_last(error)})"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "it redirects endlessly"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {TIMEOUT[1]:g} s"
    if "NameResolution" in text or "getaddrinfo" in text:
        return "there is no such host"
    if "refused" in text:
        return "the connection is refused"
    if "IncompleteRead" in text:
        return "the answer is shorter than it should be"
    return f"the connection failed ({_last(error)})"


def _last(error: BaseException) -> str:
    """The innermost cause's kind and words, but no words that may hold the URL."""
    seen = error
    while isinstance(
        inner := getattr(seen, "reason", None) or (seen.args or (None,))[0], Exception
    ):
        seen = inner
    text = str(seen)
    return type(seen).__name__ if "?" in text or "://" in text else text


def _session() -> Any:
    import requests

    if getattr(_threads, "process", None) != os.getpid():
        _threads.session, _threads.process = requests.Session(), os.getpid()
        _threads.session.headers["Accept-Encoding"] = "identity"  # bytes as they are
    return _threads.session
