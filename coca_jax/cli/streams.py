"""Standard output and error that never raise, whether closed, full or not UTF-8."""

import codecs
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from coca_jax.io.stored import finite

# Characters that some readers take for ends of lines, and that JSON does not escape.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}

# Characters of tables, and their stand-ins in ASCII.
_LOOK_ALIKES = {"\u2500": "-", "\u2014": "-", "\u2588": "#", "\xb1": "+-"}


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    """Writes characters that an encoding lacks as ASCII, or escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    drawn = "".join(_LOOK_ALIKES.get(character, character) for character in lacking)
    return drawn.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("look_alike", _look_alike)


class Unfailing(io.FileIO):
    """A file descriptor that drops data which it cannot write.

    Attributes:
      failure: the first error; None while there was none.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int | None:
        """Writes the data, or keeps the error."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


def protect() -> None:
    """Makes standard output and error unfailing; characters they lack are escaped.

    Each line is written when it is printed, to a file or pipe, too: a process that is killed loses
    none, and a log of both streams has them in order.

    Streams that a caller has replaced are left alone.
    """
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _protected(1 if name == "stdout" else 2, stream))


def failure() -> OSError | None:
    """Flushes standard output; returns its first error, unless its reader has only gone away."""
    raw = _raw(sys.stdout)
    sys.stdout.flush()
    gone = raw is None or raw.failure is None or raw.failure.errno == errno.EPIPE
    return None if gone else raw.failure


def is_read() -> bool:
    """Whether standard output can still be written and may have a reader."""
    raw = _raw(sys.stdout)
    return raw is None or raw.failure is None


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one line of JSON; numbers that are not finite become null.

    A file name that is not UTF-8 has its bytes as `\\udc80` to `\\udcff`, with which Python's
    `os.fsencode(json.loads(line)["path"])` opens it. Where standard output is not UTF-8, all that
    is not ASCII is escaped.
    """
    value = finite(value)
    line = json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    if not _is_utf8(line):
        line = json.dumps(value, allow_nan=False)
    print(line, flush=True)


def _is_utf8(line: str) -> bool:
    """Whether standard output would write this text as UTF-8, the only encoding of JSON."""
    try:
        line.encode()
        return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    except (UnicodeEncodeError, LookupError):
        return False


def _open_closed() -> None:
    """Opens closed standard descriptors on the null device, so that no file gets their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, descriptor)
            if opened != descriptor:
                os.close(opened)


def _protected(descriptor: int, old: Any) -> io.TextIOWrapper:
    raw = Unfailing(descriptor, "w", closefd=False)
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "look_alike", line_buffering=True)
    with contextlib.suppress(OSError):
        old.flush()
    unbuffered = old.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        old.encoding,
        "look_alike",
        line_buffering=True,
        write_through=unbuffered,
    )


def _raw(stream: Any) -> Unfailing | None:
    raw = getattr(stream, "buffer", None)
    raw = getattr(raw, "raw", raw)
    return raw if isinstance(raw, Unfailing) else None
