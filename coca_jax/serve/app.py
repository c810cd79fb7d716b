"""The ASGI application: routes, errors as JSON, and the page."""

import asyncio
import functools
import logging
import os
import pathlib
import secrets
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from coca_jax.evaluate.samples import thumbnail
from coca_jax.serve import bodies, images, openapi
from coca_jax.serve.endpoints import ENDPOINTS, Endpoint
from coca_jax.serve.errors import RequestError
from coca_jax.serve.headers import KnownHosts, SecurityHeaders
from coca_jax.serve.limits import Place
from coca_jax.serve.service import PAGE_CAPTIONS, Service

PAGE = pathlib.Path(__file__).parent / "page"
THUMBNAIL_SIDE = 320
THUMBNAILS = 256  # that are kept, of about 20 KB each
CHUNK = 2**16  # bytes of an answer that are sent at one time
log = logging.getLogger("coca_jax.serve")
Handler = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, hosts: Collection[str] = ()) -> Starlette:
    """The application of a service.

    Args:
      service: the model, its limits and threads.
      hosts: the names that requests may have for the server; none: any.
    """
    abilities = service.served.abilities
    usable = [endpoint for endpoint in ENDPOINTS if not abilities[endpoint.name]]
    document = openapi.document(usable, service.served.indexed > 0)
    routes = [
        Route(one.path, _guarded(service, one.path, _endpoint(service, one)), methods=["POST"])
        for one in ENDPOINTS
    ]
    reads: dict[str, Handler] = {
        "/v1/model": _constant(_model_info(service)),
        "/v1/thumbnails/{path:path}": _thumbnails(service),
        "/healthz": _health(service),
        "/metrics": _metrics(service),
        "/openapi.json": _constant(document),
    }
    routes += [Route(path, _guarded(service, path, handler)) for path, handler in reads.items()]
    routes += [Route(f"/{path.name}", _file(path)) for path in sorted(PAGE.iterdir())]
    routes.append(Route("/", _file(PAGE / "index.html")))

    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(SecurityHeaders)
    return app


def _endpoint(service: Service, endpoint: Endpoint) -> Handler:
    """Reads a request of the endpoint and answers it."""
    missing = service.served.abilities[endpoint.name]
    max_bytes = service.limits.max_bytes

    async def handle(request: Request) -> Response:
        if missing:
            raise RequestError(404, f"{endpoint.path}: {missing}")
        with service.admission.receiving() as place:
            try:
                parsed = await bodies.read(request, endpoint.request, max_bytes, place.add)
                place.take()
            except BaseException:
                place.give_back()
                raise
        try:
            return _Answer(await _unless_gone(request, endpoint.run(service, parsed)), place)
        except BaseException:
            place.give_back()
            raise

    return handle


class _Answer(JSONResponse):
    """An answer that keeps its request's place until the client has read it."""

    def __init__(self, content: dict[str, Any], place: Place):
        super().__init__(content)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer in parts; uvicorn takes the next once the client has read the last."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            for begin in range(0, len(self.body), CHUNK):
                part = self.body[begin : begin + CHUNK]
                more = begin + CHUNK < len(self.body)
                await send({"type": "http.response.body", "body": part, "more_body": more})
        finally:
            self._place.give_back()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> Any:
    """The result of the work, which is cancelled if the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestError(400, "the client has gone away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _guarded(service: Service, path: str, handler: Handler) -> Handler:
    """Answers errors as JSON, logs those that are unexpected, and counts the request."""

    async def handle(request: Request) -> Response:
        begin = time.monotonic()
        try:
            response = await handler(request)
        except RequestError as error:
            response = JSONResponse(error.body(), error.status, error.headers)
        except Exception:
            service.metrics.failure()
            number = secrets.token_hex(6)
            log.exception("request %s of %s failed", number, path)
            message = "the server failed; its log says why under this id"
            response = JSONResponse({"error": {"message": message, "id": number}}, 500)
        service.metrics.request(path, response.status_code, time.monotonic() - begin)
        return response

    return handle


async def _refused(request: Request, error: Exception) -> Response:
    """An answer as JSON where there is no such path or method."""
    assert isinstance(error, HTTPException)
    content = {"error": {"message": error.detail}}
    return JSONResponse(content, error.status_code, error.headers)


def _constant(content: dict[str, Any]) -> Handler:
    async def handle(request: Request) -> Response:
        return JSONResponse(content)

    return handle


def _file(path: pathlib.Path) -> Handler:
    async def handle(request: Request) -> Response:
        return FileResponse(path, headers={"Cache-Control": "no-cache"})

    return handle


def _metrics(service: Service) -> Handler:
    async def handle(request: Request) -> Response:
        text, kind = service.metrics.text()
        return Response(text, media_type=kind)

    return handle


def _health(service: Service) -> Handler:
    async def handle(request: Request) -> Response:
        service.require_running()
        return JSONResponse({"status": "ok"})

    return handle


def _thumbnails(service: Service) -> Handler:
    """Small copies of the images in the index, and of no other file."""
    served = service.served

    @functools.lru_cache(THUMBNAILS)
    def make(path: pathlib.Path, changed: int) -> bytes:
        image = images.decode(path.read_bytes(), "the image", service.limits.max_pixels)
        return thumbnail(image, THUMBNAIL_SIDE)

    def read(path: pathlib.Path) -> bytes:
        try:
            return make(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise RequestError(404, "the image cannot be read any more") from error

    async def handle(request: Request) -> Response:
        # Of the path as it was sent, since the names of files need not be UTF-8.
        raw = request.scope.get("raw_path", b"").partition(b"?")[0]
        raw = raw.partition(b"/v1/thumbnails/")[2]
        name = os.fsdecode(urllib.parse.unquote_to_bytes(raw))
        if served.index is None or name not in served.index:
            raise RequestError(404, "the index has no such image")
        with service.admission.admitted():
            content = await service.decoded(read, served.index.folder / name)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "max-age=600"})

    return handle


def _model_info(service: Service) -> dict[str, Any]:
    served, limits = service.served, service.limits
    config = served.model.config
    return {
        "name": served.name,
        "step": served.model.step,
        "image_size": list(config.image.pixels),
        "resize_mode": "native" if config.image.sequence_lengths else config.image.resize_mode,
        "abilities": {name: not missing for name, missing in served.abilities.items()},
        "captioning": PAGE_CAPTIONS,
        "indexed": served.indexed,
        "limits": {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_pixels,
            "max_images": limits.max_images,
        },
    }
