"""Image-text retrieval with several captions an image and captions that several images share.

Records of one image are one image (`image_ids`) and identical captions are one text; an (image,
text) pair is right if the text is among the image's captions. A query is a hit at k if any of its
right items is among the k best.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.embed import EmbeddedExamples, embed_texts
from coca_jax.evaluate.image_ids import grouped
from coca_jax.evaluate.metrics.recall import recalls
from coca_jax.fields import choice, field

GRID_QUERIES = 6
GRID_ITEMS = 5


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluation):
    """Searches images by text and texts by image, over the whole data set."""

    requires = "contrastive"
    several_images = True

    captions: str = field(
        "all", "Whether all captions of an image are used, or its first.", choice("all", "first")
    )

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Returns what `search` does of the embedded examples."""
        return search(model, data.embedded(), self.captions)


def search(model: Model, examples: EmbeddedExamples, captions: str = "all") -> Results:
    """Ranks all images for each text, and all texts for each image.

    Args:
      model: encodes the texts.
      examples: the images, embedded, with their captions.
      captions: "all", or "first" to use each image's first caption only.

    Returns:
      Recall at 1, 5 and 10 both ways with the chance level at 1; and for the report the best items
      of a few queries.

    Raises:
      UserError: no example has a caption, or all have the same image id.
    """
    examples.image_ids.check()
    _, first = np.unique(examples.numbers, return_index=True)
    of_image = grouped(examples.captions, examples.numbers)
    of_image = [texts[:1] if captions == "first" else texts for texts in of_image]
    texts, pairs = unique_texts(of_image)
    if not texts:
        raise UserError("retrieval needs captions, and no example has one")
    images, embedded = examples.images[first], embed_texts(model, texts)
    to_text = recalls(images, embedded, pairs)
    to_image = recalls(embedded, images, pairs[:, ::-1])
    metrics = {f"image_to_text_{name}": value for name, value in to_text.items()}
    metrics |= {f"text_to_image_{name}": value for name, value in to_image.items()}
    metrics |= {"images": float(len(images)), "texts": float(len(texts))}
    metrics |= {"bad_images": float(examples.bad_images)}
    thumbnails = [examples.thumbnails[i] for i in first]
    return metrics, _grid(images, thumbnails, embedded, texts, pairs)


def unique_texts(
    captions: Sequence[Sequence[str]],
) -> tuple[list[str], Int[np.ndarray, "p 2"]]:
    """Returns the distinct texts in order of appearance, and the (image, text) pairs."""
    index: dict[str, int] = {}
    pairs = [
        (image, index.setdefault(text, len(index)))
        for image, texts in enumerate(captions)
        for text in dict.fromkeys(texts)
    ]
    return list(index), np.array(pairs, np.int64).reshape(-1, 2)


def _grid(
    images: Float[np.ndarray, "n e"],
    thumbnails: Sequence[bytes],
    texts_embedded: Float[np.ndarray, "m e"],
    texts: Sequence[str],
    pairs: Int[np.ndarray, "p 2"],
) -> dict[str, Any]:
    """Evenly spaced queries with their best items, for the report."""
    right = set(map(tuple, pairs.tolist()))
    by_text, by_image = [], []
    for text in _evenly(len(texts)):
        items = [
            {"image": thumbnails[i], "score": score, "right": (i, text) in right}
            for i, score in _best(texts_embedded[text], images)
        ]
        by_text.append({"text": texts[text], "items": items})
    for image in _evenly(len(images)):
        items = [
            {"text": texts[i], "score": score, "right": (image, i) in right}
            for i, score in _best(images[image], texts_embedded)
        ]
        by_image.append({"image": thumbnails[image], "items": items})
    return {"text_to_image": by_text, "image_to_text": by_image}


def _evenly(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, GRID_QUERIES).astype(int)).tolist()


def _best(
    query: Float[np.ndarray, " e"], items: Float[np.ndarray, "m e"]
) -> list[tuple[int, float]]:
    scores = items @ query
    best = np.argsort(-scores, kind="stable")[:GRID_ITEMS]
    return [(int(i), float(scores[i])) for i in best]
