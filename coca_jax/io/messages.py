"""Parts of messages: counts with their nouns, causes of errors, shortened values, duplicates."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from coca_jax.io import http

MOST = 200  # the most characters of a value
_OF_ONE = {"are": "is", "were": "was", "have": "has", "hold": "holds", "lie": "lies"}
_VERB = re.compile(rf"\b({'|'.join(_OF_ONE)})\b")
_PLURAL = re.compile(r"(\w+?)((?<=ss)es|s)\b")


def counted(count: int, words: str) -> str:
    """A count with its words: "2 hidden files are skipped", "1 hidden file is skipped".

    Args:
      count: the number.
      words: the words in the plural. For 1, the first word that ends in s and the first verb become
        singular.
    """
    if count != 1:
        return f"{count:,} {words}"
    words = _PLURAL.sub(r"\1", words, count=1)
    return f"1 {_VERB.sub(lambda verb: _OF_ONE[verb[0]], words, count=1)}"


def cause(error: BaseException, path: str | os.PathLike = "") -> str:
    """The reason why a file cannot be used, for a message that already names the file.

    Args:
      error: the exception.
      path: the file or URL, which is removed from the start of the exception's own message.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = re.sub(r", url=.*", "", text)  # aiohttp's
    return text.removeprefix(f"{http.shown(os.fspath(path))}: ")


def shortened(value: Any) -> str:
    """A value as text; the middle of a long one is left out."""
    text = str(value)
    return text if len(text) <= MOST else f"{text[:150]} ... {text[-40:]}"


def duplicates(names: Iterable[Any]) -> list[Any]:
    """Names or ids that occur more than once, each once."""
    return [name for name, count in Counter(names).items() if count > 1]
