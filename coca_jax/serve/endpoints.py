"""The endpoints of the API, one short function each."""

import base64
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from coca_jax.inference import Caption
from coca_jax.serve import schemas
from coca_jax.serve.errors import RequestError
from coca_jax.serve.limits import MAX_TEXTS
from coca_jax.serve.operations import rank, softmax
from coca_jax.serve.schemas import Request
from coca_jax.serve.service import Service

CAPTION_OPTIONS = set(schemas.Caption.model_fields) - {"images", "method", "prompt"}


class Endpoint(NamedTuple):
    """A path of the API that takes a request and returns an answer."""

    name: str  # the path is /v1/NAME
    request: type[Request]
    answer: type[BaseModel]
    run: Callable[[Service, Any], Awaitable[dict[str, Any]]]
    summary: str

    @property
    def path(self) -> str:
        """The path of its URL."""
        return f"/v1/{self.name}"


async def embed(service: Service, request: schemas.Embed) -> dict[str, Any]:
    """Embeds images and texts."""
    if not request.images and not request.texts:
        raise RequestError(422, "there are neither images nor texts to embed")
    images, texts = [], []
    if request.images:
        images = await service.run("embed_image", await service.pixels(request.images))
    if request.texts:
        texts = await service.run("embed_text", request.texts)
    encode = _base64 if request.encoding == "base64" else np.ndarray.tolist
    return {"images": [*map(encode, images)], "texts": [*map(encode, texts)]}


async def caption(service: Service, request: schemas.Caption) -> dict[str, Any]:
    """Captions images."""
    values = {name: getattr(request, name) for name in CAPTION_OPTIONS}
    options = {name: value for name, value in values.items() if value is not None}
    pixels = await service.pixels(request.images)
    rows = [(image, request.prompt) for image in pixels]
    # A sample depends on its seed and its row of the batch.
    alone = object() if request.seed is not None else None
    captions = await service.run("caption", rows, alone, method=request.method, **options)
    return {
        "captions": [
            _caption(one) | ({"others": [*map(_caption, one.others)]} if one.others else {})
            for one in captions
        ]
    }


async def classify(service: Service, request: schemas.Classify) -> dict[str, Any]:
    """Gives the probability of each label for each image."""
    labels, templates = tuple(request.labels), tuple(request.templates)
    if len(labels) * len(templates) > MAX_TEXTS:
        raise RequestError(
            422,
            f"{len(labels)} labels in {len(templates)} templates are "
            f"{len(labels) * len(templates)} texts; at most {MAX_TEXTS} are accepted",
        )
    config, scoring = service.served.model.config, request.scoring
    scoring = scoring or ("embeddings" if config.has_cls else "captions")
    pixels = await service.pixels(request.images)
    names = {"labels": labels, "templates": templates}
    if scoring == "embeddings":
        (classes,) = await service.run("class_embeddings", [None], **names)
        scores = np.stack(await service.run("embed_image", pixels)) @ classes.T
        probabilities = softmax(service.scale * scores)
    else:
        scores = np.stack(await service.run("label_log_probabilities", pixels, **names))
        probabilities = softmax(scores)
    return {
        "images": [
            [
                {"label": labels[i], "probability": float(share[i]), "score": float(score[i])}
                for i in rank(score, len(labels))
            ]
            for score, share in zip(scores, probabilities, strict=True)
        ]
    }


async def similarity(service: Service, request: schemas.Similarity) -> dict[str, Any]:
    """Compares all images with all texts."""
    pixels = await service.pixels(request.images)
    images = np.stack(await service.run("embed_image", pixels))
    texts = np.stack(await service.run("embed_text", request.texts))
    return {"similarity": (images @ texts.T).tolist()}


async def search(service: Service, request: schemas.Search) -> dict[str, Any]:
    """Finds images of the index."""
    if (request.text is None) == (not request.images):
        raise RequestError(422, "a search needs a text or an image, and not both")
    if request.text is not None:
        (query,) = await service.run("embed_text", [request.text])
    else:
        (query,) = await service.run("embed_image", await service.pixels(request.images))
    (matches,) = await service.run("search", [query], top=request.top)
    return {"matches": [_match(service, score, path) for score, path in matches]}


async def answer(service: Service, request: schemas.Answer) -> dict[str, Any]:
    """Answers a question about each image."""
    questions = request.questions * (len(request.images) if len(request.questions) == 1 else 1)
    if len(questions) != len(request.images):
        raise RequestError(
            422, f"there are {len(questions)} questions about {len(request.images)} images"
        )
    served, scoring = service.served, request.scoring
    scoring = scoring or ("head" if served.answers_by_head else "generation")
    if scoring == "head" and not served.answers_by_head:
        raise RequestError(422, "the model has no head that answers questions")
    if scoring == "generation" and not served.writes_answers:
        raise RequestError(422, "the model was not trained to write answers")
    rows = [*zip(await service.pixels(request.images), questions, strict=True)]
    if scoring == "generation":
        written = await service.run("answer_by_text", rows)
        return {
            "answers": [
                [{"answer": one.text, "log_probability": one.log_probability}] for one in written
            ]
        }
    logits = await service.run("answer_by_head", rows)
    return {"answers": [_answers(served.model.classes, row, request.top) for row in logits]}


async def attention(service: Service, request: schemas.Attention) -> dict[str, Any]:
    """Shows where the decoder attends to as it writes each word of a text."""
    service.require_fits(request.texts, "texts")
    if len(request.images) not in (1, len(request.texts)):
        raise RequestError(
            422, f"there are {len(request.texts)} texts about {len(request.images)} images"
        )
    pixels = await service.pixels(request.images)
    pixels = pixels * len(request.texts) if len(pixels) == 1 else pixels
    maps = await service.run("attention_maps", [*zip(pixels, request.texts, strict=True)])
    return {
        "texts": [
            [{"word": word, "map": values.tolist()} for word, values in words] for words in maps
        ]
    }


ENDPOINTS = (
    Endpoint("embed", schemas.Embed, schemas.Embeddings, embed, "Embed images and texts"),
    Endpoint("caption", schemas.Caption, schemas.Captions, caption, "Caption images"),
    Endpoint("classify", schemas.Classify, schemas.Classes, classify, "Classify images by labels"),
    Endpoint(
        "similarity",
        schemas.Similarity,
        schemas.Similarities,
        similarity,
        "Compare images with texts",
    ),
    Endpoint("search", schemas.Search, schemas.Matches, search, "Search the indexed images"),
    Endpoint("answer", schemas.Answer, schemas.Answers, answer, "Answer questions about images"),
    Endpoint(
        "attention",
        schemas.Attention,
        schemas.AttentionMaps,
        attention,
        "Map the attention of each word of a text to the image",
    ),
)


def _base64(embedding: np.ndarray) -> str:
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def _caption(one: Caption) -> dict[str, Any]:
    return {"caption": one.text, "log_probability": one.log_probability}


def _answers(classes: Sequence[str], logits: np.ndarray, top: int) -> list[dict[str, Any]]:
    shares = softmax(logits)
    return [{"answer": classes[i], "probability": float(shares[i])} for i in rank(logits, top)]


def _match(service: Service, score: float, path: Any) -> dict[str, Any]:
    name = path.relative_to(service.served.index.folder).as_posix()
    quoted = urllib.parse.quote(name, errors="surrogateescape")
    shown = name.encode(errors="surrogateescape").decode(errors="replace")
    return {"path": shown, "similarity": float(score), "thumbnail": f"v1/thumbnails/{quoted}"}
