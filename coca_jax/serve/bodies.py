"""Reads the bodies of requests: JSON, or a form with uploads, within the limits."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pydantic
import pydantic_core
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from coca_jax.serve.errors import RequestError
from coca_jax.serve.limits import (
    BODY_SECONDS,
    MAX_CHARACTERS,
    MAX_FIELDS,
    MAX_MARKS,
    MAX_TEXTS,
)
from coca_jax.serve.schemas import Request

JSON, FORM = "application/json", "multipart/form-data"
MAX_PART = 8 * MAX_CHARACTERS  # bytes of a field that is not an upload
Parsed = TypeVar("Parsed", bound=Request)


async def read(
    request: HttpRequest,
    kind: type[Parsed],
    max_bytes: int,
    count: Callable[[int], None] = lambda size: None,
) -> Parsed:
    """Reads a request of a kind.

    Args:
      request: whose body has not been read.
      kind: of its content.
      max_bytes: of its body.
      count: is called with the size of each part of the body that comes; may raise.

    Raises:
      RequestError: the body is neither JSON nor a form (415), is too large (413), does not come
        (408), or does not hold such a request (422).
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (JSON, FORM):
        raise RequestError(415, f"the content type must be {JSON} or {FORM}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if content_type == JSON:
                parts = [part async for part in _limited(request, max_bytes, count)]
                content: Any = _json(b"".join(parts))
            else:
                content = await _form(request, kind, _limited(request, max_bytes, count))
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            raise RequestError(422, f"a request has at most {MAX_FIELDS} fields")
        return kind.model_validate(content, strict=content_type == JSON)
    except TimeoutError as error:
        raise RequestError(408, f"the body did not come in {BODY_SECONDS:.0f} seconds") from error
    except pydantic.ValidationError as error:
        raise RequestError(422, "the request is malformed", _details(error)) from error
    except ClientDisconnect as error:
        raise RequestError(400, "the client has gone away") from error


async def _limited(
    request: HttpRequest, max_bytes: int, count: Callable[[int], None]
) -> AsyncIterator[bytes]:
    """Yields the body; raises a RequestError once it is larger than it may be."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        count(len(chunk))
        yield chunk


def _json(body: bytes) -> Any:
    """The value of a body in JSON; raises a RequestError if it is malformed or far too large."""
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_MARKS:
        raise RequestError(413, f"JSON may have at most {MAX_MARKS:,} commas and brackets")
    try:
        return pydantic_core.from_json(body, cache_strings="none")
    except ValueError as error:
        message = f"Invalid JSON: {error}"
        details = [{"field": [], "message": message}]
        raise RequestError(422, "the request is malformed", details) from error


async def _form(
    request: HttpRequest, kind: type[Request], body: AsyncIterator[bytes]
) -> dict[str, Any]:
    """The fields of a form; those that the kind has as lists may be repeated."""
    parser = MultiPartParser(
        request.headers,
        body,
        max_files=MAX_TEXTS,
        max_fields=2 * MAX_TEXTS,
        max_part_size=MAX_PART,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "exceeded maximum size" not in error.message:
            raise RequestError(422, "the form is malformed") from error
        message = f"a field of a form has at most {MAX_PART:,} bytes; send an image as an upload"
        raise RequestError(413, message) from error
    except (FormParserError, UnicodeError, LookupError) as error:
        raise RequestError(422, "the form is malformed") from error
    values: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            content = await value.read() if isinstance(value, UploadFile) else value
            if _is_list(kind, name):
                values.setdefault(name, []).append(content)
            else:
                values[name] = content
    finally:
        await form.close()
    return values


def _is_list(kind: type[Request], name: str) -> bool:
    """Whether a field of a request is a list."""
    field = kind.model_fields.get(name)
    return field is not None and getattr(field.annotation, "__origin__", None) is list


def _details(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """The fields that are wrong, without their values, and why."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"field": [*map(str, e["loc"])], "message": e["msg"]} for e in errors[:20]]


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"a request may have at most {max_bytes:,} bytes")
