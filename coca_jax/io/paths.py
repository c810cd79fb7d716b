"""Paths as people write them: local, `~`, `file://`, `gs://`, `s3://` and other URLs alike."""

import logging
import os
import re
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coca_jax.errors import UserError
from coca_jax.io import http
from coca_jax.io.messages import cause

if TYPE_CHECKING:
    from etils import epath

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+)://")  # fsspec's are chained by ::
# A URL that went through `pathlib.Path` has lost a slash.
_SQUEEZED = re.compile(r"(^|::)(gs|gcs|s3|s3a|https?|memory|file):/(?!/)")
_ALIASES = {"gcs": "gs", "s3a": "s3"}
_FOLDERS = ("gs", "s3")  # which can hold a workdir
_MAGIC = re.compile(r"[*?\[]")


def is_url(path: str) -> bool:
    """Whether a path is for fsspec, and not for the local file system."""
    return _URL.match(path) is not None


def normalize(path: str | os.PathLike) -> str:
    """A path as the rest of coca_jax takes it: a local path without `~`, or a URL.

    `file://` becomes a local path, `gcs://` becomes `gs://`, and a URL that lost a slash in
    `pathlib.Path` gets it back.

    Raises:
      UserError: the path is empty, or holds a NUL.
    """
    text = os.fsdecode(path)
    if not text.strip() or "\0" in text:
        raise UserError(f"{text!r} is not a path")
    if not os.path.lexists(text.partition("/")[0]):
        text = _SQUEEZED.sub(r"\1\2://", text)
    url = _URL.match(text)
    if url is None:
        return os.path.expanduser(text)
    scheme, rest = url[1].lower(), text[url.end() :]
    if scheme == "file":
        return _local(text, rest)
    return f"{_ALIASES.get(scheme, scheme)}://{rest}"


def _local(url: str, rest: str) -> str:
    """The local path of a `file://` URL, which may have `%20` for a blank."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UserError(f"{url!r} should be file:///... with an absolute path")
    path = slash + path
    return path if os.path.lexists(path) else urllib.parse.unquote(path)


def as_path(path: str | os.PathLike) -> "epath.Path":
    """The absolute path of something that may be a folder: local, or at `gs://` or `s3://`.

    Raises:
      UserError: the path is empty, or a URL of another kind.
    """
    from etils import epath

    text = normalize(path)
    if not is_url(text):
        return epath.Path(os.path.abspath(text))
    configure_stores()
    scheme, rest = text.split("://", 1)
    if scheme not in _FOLDERS:
        raise UserError(f"{text}: folders can be local, or at gs:// or s3://, not at {scheme}://")
    bucket, _, key = rest.partition("/")
    key = "/".join(part for part in key.split("/") if part not in ("", "."))
    if not bucket or ".." in key.split("/"):
        raise UserError(f"{text} should be {scheme}://BUCKET/PATH")
    return epath.Path(f"{scheme}://{bucket}/{key}".rstrip("/"))


def configure_stores() -> None:
    """Sets fsspec's defaults for object stores; call it before one is opened.

    Listings are not kept: other processes write to the same folders.
    """
    import fsspec

    for scheme in _FOLDERS:
        fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
    # It logs each failure with its traceback, and raises it as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    if os.environ.get("STORAGE_EMULATOR_HOST"):  # an emulator has no kinds of buckets to ask for
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def system_of(path: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path's name in it.

    Raises:
      UserError: there is no file system for it, or its package is not installed.
    """
    import fsspec

    configure_stores()
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        extra = {"gs": "gcs", "s3": "s3"}.get(path.partition("://")[0])
        how = f": pip install 'coca_jax[{extra}]'" if extra else ""
        raise UserError(f"{http.shown(path)} cannot be opened ({error}){how}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{http.shown(path)} cannot be opened: {cause(error)}") from error


def join(folder: str | os.PathLike, *parts: str) -> str:
    """A path or URL within a folder."""
    return os.path.join(os.fspath(folder), *parts)


def is_pattern(path: str) -> bool:
    """Whether a path has `*` or braces for several files; not if it exists as it is written."""
    path = path.partition("?")[0] if http.is_http(path) else path
    return bool(path) and re.search(r"\*|{.*}", _literal(path)[1]) is not None


def folder_of(path: str) -> str:
    """The folder of a file; of a URL without its query."""
    return os.path.dirname(path.partition("?")[0] if http.is_http(path) else path)


def expand(pattern: str | Sequence[str]) -> list[str]:
    """The files that a pattern stands for, in the order of its braces and then of their names.

    What exists literally is not a pattern: neither a file nor a folder at the beginning of a path.

    Args:
      pattern: one or several of: a path or URL, with `{00000..00099}`, `{a,b}`, `*`, `?`, `[0-9]`.

    Raises:
      UserError: a pattern is malformed or matches nothing, or a file is named twice.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    if not patterns or not all(patterns):
        raise UserError(f"no path is given ({pattern!r})")
    patterns = list(map(normalize, patterns))
    paths = [path for one in patterns for path in _expanded(one)]
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            given = ", ".join(map(http.shown, patterns))
            raise UserError(f"{http.shown(path)} is named twice by {given}")
        seen.add(path)
    return paths


def _expanded(pattern: str) -> list[str]:
    import braceexpand

    # A query is not a pattern: signatures hold any characters.
    pattern, mark, query = pattern.partition("?") if http.is_http(pattern) else (pattern, "", "")
    folder, rest = _literal(pattern)
    if not rest:
        return [pattern]
    try:
        parts = list(braceexpand.braceexpand(rest))
    except braceexpand.UnbalancedBracesError as error:
        raise UserError(f"the braces of {http.shown(pattern)!r} do not match") from error
    return [path for part in parts for path in _matches(folder, part, mark + query)]


def _literal(pattern: str) -> tuple[str, str]:
    """A pattern in two: the longest beginning that exists, and the rest.

    Of a URL only its scheme counts as existing, to ask no server.
    """
    if is_url(pattern):
        end = pattern.index("://") + 3
        return pattern[:end], pattern[end:]
    folder = pattern
    while folder and not os.path.lexists(folder):
        folder = os.path.dirname(folder.rstrip("/"))
    return folder, pattern[len(folder) :]


def _matches(folder: str, part: str, query: str) -> list[str]:
    import glob

    path = folder + part
    if not _MAGIC.search(part):
        return [path + query]
    if http.is_http(path):
        return _web_matches(path, query)
    if is_url(path):
        system, name = system_of(path)
        if system.exists(name):
            return [path]
        matches = [system.unstrip_protocol(match) for match in system.glob(name)]
    elif os.path.lexists(path):
        return [path]
    else:
        matches = glob.glob(glob.escape(folder) + part, recursive=True)
    if not matches:
        raise UserError(f"no file matches {path!r}")
    return sorted(matches)


def _web_matches(pattern: str, query: str) -> list[str]:
    """The files that a web server lists as links in the page of their folder."""
    try:
        if http.is_file(pattern + query):
            return [pattern + query]
        system, name = system_of(pattern)
        matches = sorted(system.glob(name))
    except UserError:
        raise
    except FileNotFoundError:
        matches = []
    except Exception as error:  # aiohttp's are of many kinds
        why = cause(error, pattern + query)
        raise UserError(f"no file matches {http.shown(pattern)!r}: {why}") from error
    if not matches:
        raise UserError(f"no file matches {http.shown(pattern)!r}: the server lists none")
    return [match + query for match in matches]
