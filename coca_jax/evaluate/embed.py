"""Embeddings of whole data sets, held in memory, for the evaluations that compare them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Model
from coca_jax.evaluate.image_ids import ImageIds
from coca_jax.evaluate.samples import thumbnail

TEXTS_PER_CALL = 256
NO_EXAMPLES = "the data set to evaluate on has no examples; check its split and limit"


@dataclasses.dataclass(frozen=True)
class EmbeddedExamples:
    """The examples of one data set with their image embeddings, in their order."""

    images: Float32[np.ndarray, "n e"]
    captions: list[list[str]]
    labels: Int[np.ndarray, " n"]
    label_names: list[list[str]]
    """Labels that are names of classes, and no numbers."""
    thumbnails: list[bytes]
    """JPEG files for the report; each takes about the memory of its embedding."""
    bad_images: int = 0
    """The number of further images that could not be read and are left out."""
    image_ids: ImageIds = dataclasses.field(default_factory=ImageIds)
    """Says which examples are of one image."""
    numbers: list[int] = dataclasses.field(default_factory=list)
    """The number of each example's image."""


def embed_examples(model: Model, batches: Iterable[dict[str, Any]]) -> EmbeddedExamples:
    """Encodes every image once.

    Raises:
      UserError: there is no example.
    """
    images, captions, labels, names, thumbnails, bad = [], [], [], [], [], 0
    image_ids, numbers = ImageIds(), []
    for batch in batches:
        numbers += image_ids.add(batch)
        images.append(np.asarray(model.encode_image(batch["image"]), np.float32))
        captions.extend(batch["captions"])
        labels.append(np.asarray(batch["label"]))
        names.extend(batch.get("labels", [[]] * len(batch["image"])))
        thumbnails.extend(thumbnail(image, 128) for image in batch["image"])
        bad += batch.get("bad_image", 0)
    if not captions:
        raise UserError(NO_EXAMPLES)
    return EmbeddedExamples(
        images=np.concatenate(images),
        captions=captions,
        labels=np.concatenate(labels),
        label_names=names,
        thumbnails=thumbnails,
        bad_images=bad,
        image_ids=image_ids,
        numbers=numbers,
    )


def embed_texts(model: Model, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
    """Tokenizes and encodes the texts, a few hundred at a time."""
    chunks = [texts[i : i + TEXTS_PER_CALL] for i in range(0, len(texts), TEXTS_PER_CALL)]
    encoded = [model.encode_text(model.tokenize(chunk)) for chunk in chunks]
    return np.concatenate([np.asarray(chunk, np.float32) for chunk in encoded])
