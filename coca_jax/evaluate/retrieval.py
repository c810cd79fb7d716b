"""Image-text retrieval with several captions an image and captions that several images share.

Records of one image are one image (`image_ids`) and identical captions are one text; an (image,
text) pair is right if the text is among the image's captions. A query is a hit at k if any of its
right items is among the k best. With `rerank` the decoder scores the best ones again, each with its
query.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Evaluation, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.embed import EmbeddedExamples, embed_texts
from coca_jax.evaluate.image_ids import grouped
from coca_jax.evaluate.metrics.recall import CUTOFFS, recalls
from coca_jax.evaluate.rerank import (
    LOSS_OF_SCORING,
    candidates,
    log_odds,
    pair_scores,
    reranked_recalls,
    scorer,
)
from coca_jax.fields import choice, field, integer

GRID_QUERIES = 6
GRID_ITEMS = 5


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluation):
    """Searches images by text and texts by image, over the whole data set."""

    captions: str = field(
        "all", "Whether all captions of an image are used, or its first.", choice("all", "first")
    )
    rerank: int = field(
        0,
        "Candidates of each query that the decoder, which sees image and text, orders again; "
        "recalls of this order are `reranked_...`. 0: none.",
        integer(0, 10_000),
    )
    rerank_by: str = field(
        "captions",
        "What orders them. captions: the decoder's log-probability of the text; for several texts "
        "of an image, relative to that of the text's other candidates. matching: the logit of the "
        "matching head.",
        choice("captions", "matching"),
    )

    @property
    def requires(self) -> tuple[str, ...]:
        """The losses that train the embeddings and what orders the candidates again."""
        scorings = ("embeddings", self.rerank_by) if self.rerank else ("embeddings",)
        return tuple(LOSS_OF_SCORING[scoring] for scoring in scorings)

    @property
    def several_images(self) -> bool:
        """Embeddings of several images are averaged; the decoder reads one image."""
        return not self.rerank

    def conflicts(self, config: ConfigDict) -> Iterator[str]:
        """A message if `rerank` would reduce examples of several images to their first."""
        num_images = config.data.num_images
        if self.rerank and self.num_images is None and num_images > 1:
            yield (
                f"rerank={self.rerank}: the decoder reads one image of an example, and "
                f"config.data.num_images={num_images}; set rerank=0, or num_images=1 to search by "
                "the first image alone"
            )

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Searches, and with `rerank` orders the best items of each query again.

        Returns:
          What `search` returns; with `rerank` also both recalls of the new order, at the same k as
          far as there are candidates.
        """
        examples = data.embedded()
        gallery = Gallery.of(model, examples, self.captions)
        metrics, artifacts = gallery.search()
        if self.rerank:
            metrics |= self._reranked(model, data, examples, gallery)
        return metrics, artifacts

    def _reranked(
        self, model: Model, data: EvaluationData, examples: EmbeddedExamples, gallery: "Gallery"
    ) -> dict[str, float]:
        texts_of = candidates(gallery.images, gallery.embedded_texts, self.rerank)
        images_of = candidates(gallery.embedded_texts, gallery.images, self.rerank)
        wanted = [set(row) for row in texts_of.tolist()]
        for text, row in enumerate(images_of.tolist()):
            for image in row:
                wanted[image].add(text)
        scores = pair_scores(
            scorer(model, self.rerank_by),
            _numbered(data.batches(), examples.numbers, gallery.records),
            gallery.texts,
            wanted,
            self.rerank,
        )
        of_text = log_odds(scores, images_of) if self.rerank_by == "captions" else scores
        to_text = reranked_recalls(texts_of, gallery.pairs, lambda i, t: of_text[i, t], CUTOFFS)
        pairs = gallery.pairs[:, ::-1]
        to_image = reranked_recalls(images_of, pairs, lambda t, i: scores[i, t], CUTOFFS)
        metrics = {f"reranked_image_to_text_{name}": value for name, value in to_text.items()}
        return metrics | {f"reranked_text_to_image_{n}": value for n, value in to_image.items()}


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images and texts of a data set, embedded."""

    images: Float[np.ndarray, "n e"]
    embedded_texts: Float[np.ndarray, "m e"]
    texts: list[str]
    pairs: Int[np.ndarray, "p 2"]  # (image, text) that belong together
    records: Int[np.ndarray, " n"]  # the first record of each image
    thumbnails: list[bytes]
    bad_images: int

    @classmethod
    def of(cls, model: Model, examples: EmbeddedExamples, captions: str = "all") -> "Gallery":
        """Embeds the texts of examples.

        Args:
          model: encodes the texts.
          examples: the images, embedded, with their captions.
          captions: "all", or "first" to use each image's first caption only.

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
        thumbnails = [examples.thumbnails[i] for i in first]
        embeddings = examples.images[first], embed_texts(model, texts)
        return cls(*embeddings, texts, pairs, first, thumbnails, examples.bad_images)

    def search(self) -> Results:
        """Ranks all images for each text, and all texts for each image; see `search`."""
        to_text = recalls(self.images, self.embedded_texts, self.pairs)
        to_image = recalls(self.embedded_texts, self.images, self.pairs[:, ::-1])
        metrics = {f"image_to_text_{name}": value for name, value in to_text.items()}
        metrics |= {f"text_to_image_{name}": value for name, value in to_image.items()}
        metrics |= {"images": float(len(self.images)), "texts": float(len(self.texts))}
        metrics |= {"bad_images": float(self.bad_images)}
        grid = _grid(self.images, self.thumbnails, self.embedded_texts, self.texts, self.pairs)
        return metrics, grid


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
    return Gallery.of(model, examples, captions).search()


def _numbered(
    batches: Iterable[dict[str, Any]], numbers: Sequence[int], records: Int[np.ndarray, " n"]
) -> Iterator[tuple[Any, list[int]]]:
    """The images of batches with their numbers; -1 for all but an image's first record."""
    start = 0
    for batch in batches:
        rows = range(start, start + len(batch["image"]))
        yield batch["image"], [numbers[r] if records[numbers[r]] == r else -1 for r in rows]
        start += len(rows)


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
