"""Image-text retrieval with several captions an image and captions that several images share.

Records of one image are one image (`image_ids`) and identical captions are one text; an (image,
text) pair is right if the text is among the image's captions. A query is a hit at k if any of its
right items is among the k best.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float, Int

from coca_jax.errors import UserError
from coca_jax.evaluate.embed import EmbeddedExamples, embed_texts
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.image_ids import grouped
from coca_jax.evaluate.undefined import Undefined

CUTOFFS = (1, 5, 10)
SCORES_IN_MEMORY = 2**24
GRID_QUERIES = 6
GRID_ITEMS = 5


def evaluate(
    handle: Handle, examples: EmbeddedExamples, captions: str = "all"
) -> tuple[dict[str, float], dict[str, Any]]:
    """Searches images by text and texts by image, over the whole data set.

    Args:
      handle: encodes the texts.
      examples: the images, embedded, with their captions.
      captions: "all", or "first" to use each image's first caption only.

    Returns:
      Recall at 1, 5 and 10 both ways with the chance level at 1, and for the report some queries
      with what they found.

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
    images, embedded = examples.images[first], embed_texts(handle, texts)
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


def recalls(
    queries: Float[np.ndarray, "n e"],
    items: Float[np.ndarray, "m e"],
    pairs: Int[np.ndarray, "p 2"],
) -> dict[str, float]:
    """Returns recall at 1, 5 and 10, and the recall at 1 of random order, as `chance_r1`.

    The means are over the queries that have a right item; without any they are undefined.
    """
    if not len(pairs):
        names = [*(f"r{k}" for k in CUTOFFS), "chance_r1"]
        return dict.fromkeys(names, Undefined("no query has a right item"))
    positives = np.bincount(pairs[:, 0], minlength=len(queries))
    ranks = best_ranks(queries, items, pairs)[positives > 0]
    metrics = {f"r{k}": float((ranks < k).mean()) for k in CUTOFFS}
    chance = positives[positives > 0].mean() / len(items)
    return metrics | {"chance_r1": float(chance)}


def best_ranks(
    queries: Float[np.ndarray, "n e"],
    items: Float[np.ndarray, "m e"],
    pairs: Int[np.ndarray, "p 2"],
    scores_in_memory: int = SCORES_IN_MEMORY,
) -> Int[np.ndarray, "n"]:
    """Returns, for each query, how many wrong items do not score lower than its best right one.

    So a tie counts against the model, and one that maps everything to a point, or to NaN, finds
    nothing. A query without a right item gets rank m. The n x m scores never exist at once.

    Args:
      queries: embeddings to search with.
      items: embeddings to search among.
      pairs: (query, item) for each right item of each query, in any order.
      scores_in_memory: the most scores to hold at a time (at least one row of m is).
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    rows = max(1, scores_in_memory // len(items))
    ranks = np.empty(len(queries), np.int64)
    starts = range(0, len(queries), rows)
    for start in tqdm.tqdm(starts, desc="ranking", unit="block", disable=None, leave=False):
        block = queries[start : start + rows]
        first, last = np.searchsorted(pairs[:, 0], [start, start + len(block)])
        right = pairs[first:last] - [start, 0]
        ranks[start : start + rows] = _block_ranks(block @ items.T, right)
    return ranks


def _block_ranks(
    scores: Float[np.ndarray, "r m"], right: Int[np.ndarray, "p 2"]
) -> Int[np.ndarray, "r"]:
    of_right = scores[right[:, 0], right[:, 1]]
    best = np.full(len(scores), -np.inf, scores.dtype)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        np.maximum.at(best, right[:, 0], of_right)
    ranks = (~(scores < best[:, None])).sum(axis=1)
    np.subtract.at(ranks, right[:, 0], ~(of_right < best[right[:, 0]]))  # they are not wrong
    return ranks


def _grid(
    images: Float[np.ndarray, "n e"],
    thumbnails: Sequence[bytes],
    texts_embedded: Float[np.ndarray, "m e"],
    texts: Sequence[str],
    pairs: Int[np.ndarray, "p 2"],
) -> dict[str, Any]:
    """Returns evenly spaced queries with their best items, for the report."""
    right = set(map(tuple, pairs.tolist()))
    by_text, by_image = [], []
    for text in _evenly(len(texts)):
        found = _best(texts_embedded[text], images)
        items = [
            {"image": thumbnails[i], "score": score, "right": (i, text) in right}
            for i, score in found
        ]
        by_text.append({"text": texts[text], "items": items})
    for image in _evenly(len(images)):
        found = _best(images[image], texts_embedded)
        items = [
            {"text": texts[i], "score": score, "right": (image, i) in right} for i, score in found
        ]
        by_image.append({"image": thumbnails[image], "items": items})
    return {"text_to_image": by_text, "image_to_text": by_image}


def _evenly(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, GRID_QUERIES).astype(int)).tolist()


def _best(
    query: Float[np.ndarray, "e"], items: Float[np.ndarray, "m e"]
) -> list[tuple[int, float]]:
    scores = items @ query
    best = np.argsort(-scores, kind="stable")[:GRID_ITEMS]
    return [(int(i), float(scores[i])) for i in best]
