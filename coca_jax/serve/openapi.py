"""The OpenAPI document of a server, made of its endpoints and their schemas."""

import copy
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

import coca_jax
from coca_jax.serve import schemas
from coca_jax.serve.bodies import FORM, JSON
from coca_jax.serve.endpoints import Endpoint

REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "The connection or the request is broken.",
    408: "The body did not come in time.",
    413: "The request has too many bytes, or an image too many pixels.",
    415: "The content type is neither JSON nor a form.",
    422: "The request is malformed, or the model refuses it.",
    500: "The model failed; the server's log says why.",
    503: "The server has as many requests as it can hold.",
}
THUMBNAIL_ERRORS = {
    "404": "The index has no such image, or it cannot be read any more.",
    "413": ERRORS[413],
    "422": "The file is not an image any more.",
    "503": ERRORS[503],
}
READS = (
    ("/v1/model", schemas.ModelInfo, "The model, what it can do, and the server's limits"),
    ("/healthz", schemas.Health, "Whether the server is up"),
)


def document(endpoints: Iterable[Endpoint], indexed: bool) -> dict[str, Any]:
    """The document.

    Args:
      endpoints: those that the model can serve.
      indexed: whether there is an index of images.
    """
    endpoints = list(endpoints)
    models = [(one.request, "validation") for one in endpoints]
    models += [(one.answer, "serialization") for one in endpoints]
    models += [(answer, "serialization") for _, answer, _ in READS]
    models.append((schemas.Error, "serialization"))
    _, definitions = models_json_schema(models, ref_template=REFERENCE)
    components = definitions["$defs"]
    paths = {one.path: {"post": _operation(one, components)} for one in endpoints}
    for path, answer, summary in READS:
        paths[path] = {"get": _read(path, summary, _content(JSON, answer.__name__))}
    ended = {"description": "The model's thread has ended.", "content": _content(JSON, "Error")}
    paths["/healthz"]["get"]["responses"]["503"] = ended
    text = {"text/plain": {"schema": {"type": "string"}}}
    paths["/metrics"] = {"get": _read("/metrics", "Figures in Prometheus's format", text)}
    if indexed:
        paths["/v1/thumbnails/{path}"] = {"get": _thumbnail()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "coca serve", "version": coca_jax.__version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint, components: dict[str, Any]) -> dict[str, Any]:
    name = endpoint.request.__name__
    components[f"{name}Form"] = _form(components[name])
    responses = {
        "200": {"description": "Done.", "content": _content(JSON, endpoint.answer.__name__)}
    }
    for status, description in ERRORS.items():
        responses[str(status)] = {"description": description, "content": _content(JSON, "Error")}
    responses["503"]["headers"] = {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}
    }
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": endpoint.request.__doc__,
        "requestBody": {
            "required": True,
            "content": _content(JSON, name) | _content(FORM, f"{name}Form"),
        },
        "responses": responses,
    }


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the same request as a form, in which images are uploads."""
    form = copy.deepcopy(schema)
    form["title"] = f"{schema['title']}Form"
    form["properties"]["images"]["items"] = {"type": "string", "format": "binary"}
    return form


def _content(kind: str, name: str) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": REFERENCE.format(model=name)}}}


def _read(path: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": path.rpartition("/")[2],
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": content}},
    }


def _thumbnail() -> dict[str, Any]:
    path = {"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}
    images = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "operationId": "thumbnail",
        "summary": "A small copy of an indexed image",
        "parameters": [path],
        "responses": {
            "200": {"description": "Done.", "content": images},
            **{
                status: {"description": description, "content": _content(JSON, "Error")}
                for status, description in THUMBNAIL_ERRORS.items()
            },
        },
    }
