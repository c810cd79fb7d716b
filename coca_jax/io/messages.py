"""Parts of messages to people: counts with their words, causes, long values."""

import os
import re
from typing import Any

from coca_jax.io import http

MOST = 200  # characters of a value


def counted(count: int, one: str, many: str = "") -> str:
    """A count and what is counted, such as "1 row" and "1,200 rows".

    Args:
      count: how many.
      one: the words for one, such as "row has".
      many: for another number, such as "rows have"; empty: those for one with an s.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def cause(error: BaseException, path: str | os.PathLike = "") -> str:
    """Why a file cannot be used, for a message that has named it.

    Args:
      error: what was raised of it.
      path: the file or URL, with whose name the error's own message may begin.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = re.sub(r", url=.*", "", text)  # aiohttp's
    return text.removeprefix(f"{http.shown(os.fspath(path))}: ")


def shortened(value: Any) -> str:
    """A value as text, without its middle where that is long."""
    text = str(value)
    return text if len(text) <= MOST else f"{text[:150]} ... {text[-40:]}"
