"""Parts of messages to people: counts with their words, causes, long values."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coca_jax.io import http

MOST = 200  # characters of a value
_OF_ONE = {"are": "is", "were": "was", "have": "has", "hold": "holds", "lie": "lies"}
_VERB = re.compile(rf"\b({'|'.join(_OF_ONE)})\b")
_PLURAL = re.compile(r"(\w+?)((?<=ss)es|s)\b")


def counted(count: int, words: str) -> str:
    """A count and what is counted: "2 hidden files are skipped", "1 hidden file is skipped".

    Args:
      count: how many.
      words: for several. For one, the first word that ends in s and the first verb become singular.
    """
    if count != 1:
        return f"{count:,} {words}"
    words = _PLURAL.sub(r"\1", words, count=1)
    return f"1 {_VERB.sub(lambda verb: _OF_ONE[verb[0]], words, count=1)}"


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


def duplicates(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, each once."""
    return [name for name, count in Counter(names).items() if count > 1]
