"""Embeddings of whole data sets, held in memory, for the evaluators that compare them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8

from coca_jax.data.transforms.multi_image import evenly_spaced, side_by_side
from coca_jax.errors import UserError
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.image_ids import ImageIds

TEXTS_PER_CALL = 256
STRIP = 4  # pictures that are drawn of an example that has many


@dataclasses.dataclass(frozen=True)
class EmbeddedExamples:
    """The examples of one data set with their image embeddings, in the order they came."""

    images: Float32[np.ndarray, "n e"]
    captions: list[list[str]]
    labels: Int[np.ndarray, "n"]
    thumbnails: list[bytes]
    """JPEG files for the report; each takes about the memory of its embedding."""
    bad_images: int = 0
    """How many more could not be read and are left out."""
    image_ids: ImageIds = dataclasses.field(default_factory=ImageIds)
    """Which examples are of one image."""
    numbers: list[int] = dataclasses.field(default_factory=list)
    """Of each example's image."""


def embed_examples(handle: Handle, batches: Iterable[dict[str, Any]]) -> EmbeddedExamples:
    """Encodes every image once.

    Raises:
      UserError: there is no example.
    """
    images, captions, labels, thumbnails, bad = [], [], [], [], 0
    image_ids, numbers = ImageIds(), []
    for batch in batches:
        numbers += image_ids.add(batch)
        images.append(np.asarray(handle.encode_image(batch["image"]), np.float32))
        captions.extend(batch["captions"])
        labels.append(np.asarray(batch["label"]))
        thumbnails.extend(thumbnail(image, 128) for image in batch["image"])
        bad += batch.get("bad_image", 0)
    if not captions:
        raise UserError("the data set to evaluate on has no examples; check its split and limit")
    return EmbeddedExamples(
        images=np.concatenate(images),
        captions=captions,
        labels=np.concatenate(labels),
        thumbnails=thumbnails,
        bad_images=bad,
        image_ids=image_ids,
        numbers=numbers,
    )


def embed_texts(handle: Handle, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
    """Tokenizes and encodes the texts, a few hundred at a time."""
    chunks = [texts[i : i + TEXTS_PER_CALL] for i in range(0, len(texts), TEXTS_PER_CALL)]
    encoded = [handle.encode_text(handle.tokenize(chunk)) for chunk in chunks]
    return np.concatenate([np.asarray(chunk, np.float32) for chunk in encoded])


def thumbnail(image: UInt8[np.ndarray, "*several h w 3"], side: int) -> bytes:
    """Returns a JPEG file of the image, shrunk if its longer side exceeds `side` pixels.

    Of several pictures a strip, of at most STRIP of them, each of at most half of that size.
    """
    if image.ndim == 4:
        chosen = image[evenly_spaced(len(image), min(STRIP, len(image)))]
        image, side = side_by_side(chosen[None])[0], side * len(chosen) // 2
    height, width, _ = image.shape
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, 92),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()
