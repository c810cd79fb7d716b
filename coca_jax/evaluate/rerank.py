"""Re-ranking: the best candidates of a search are scored by the decoder, which sees image and text.

As in ALBEF (arXiv 2107.07651, section 4): embeddings, which are compared with all others at once,
find the candidates; the costly score of each pair orders them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from coca_jax.evaluate.base import Model
from coca_jax.evaluate.metrics.recall import SCORES_IN_MEMORY

LOSS_OF_SCORING = {
    "embeddings": "contrastive",
    "captions": "captioning",
    "matching": "matching",
}
PAIRS = 512  # at a time
Scores = dict[tuple[int, int], float]


def scorer(model: Model, scoring: str) -> Callable[[Any, Sequence[Sequence[str]]], Any]:
    """The function that scores k texts for each of b images [b, k]; higher is better.

    Args:
      model: has what the scoring needs.
      scoring: captions, for the decoder's log-probability of the texts; or matching.
    """
    return model.log_probabilities if scoring == "captions" else model.matching_logits


def candidates(
    queries: Float[np.ndarray, "n e"], items: Float[np.ndarray, "m e"], count: int
) -> Int[np.ndarray, "n k"]:
    """The `count` most similar items of each query, the best first; all if there are fewer."""
    count, rows = min(count, len(items)), max(1, SCORES_IN_MEMORY // len(items))
    best = []
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ items.T
        best.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    return np.concatenate(best)


def pair_scores(
    score: Callable[[Any, Sequence[Sequence[str]]], Any],
    batches: Iterable[tuple[Any, Sequence[int]]],
    texts: Sequence[str],
    wanted: Sequence[Iterable[int]],
    count: int,
) -> Scores:
    """Scores pairs of images and texts, reading each image once.

    Args:
      score: from `scorer`.
      batches: pixels [b, ...] with the number of each image; negative: it is left out.
      texts: all of them.
      wanted: for each image the numbers of the texts to score it with.
      count: texts of an image that are scored at a time, PAIRS at most.

    Returns:
      The score of each (image, text).
    """
    scores: Scores = {}
    count = min(count, PAIRS)
    for pixels, numbers in batches:
        rows = []
        for row, number in enumerate(numbers):
            of_image = sorted(wanted[number]) if number >= 0 else []
            rows += [(row, number, of_image[i : i + count]) for i in range(0, len(of_image), count)]
        images = PAIRS // count
        for part in (rows[i : i + images] for i in range(0, len(rows), images)):
            # Rows of one length: the last text again, whose score is the same.
            padded = [chosen + chosen[-1:] * (count - len(chosen)) for _, _, chosen in part]
            found = score(
                pixels[[row for row, *_ in part]], [[texts[i] for i in p] for p in padded]
            )
            for (_, number, _), of_row, values in zip(part, padded, np.asarray(found), strict=True):
                scores |= {(number, i): float(v) for i, v in zip(of_row, values, strict=True)}
    return scores


def log_odds(scores: Scores, images_of: Int[np.ndarray, "m k"]) -> Scores:
    """Scores that compare texts for one image, made of log p(text | image).

    A text that is probable for any image, such as a short one, would win. So each score is relative
    to those of other images: log p(text | image) less the logarithm of the sum of p(text | other)
    over the text's other candidates. If all of these images are equally likely, that is the
    log-odds of p(image | text), the share of an inverted softmax (arXiv 1702.03859).

    Args:
      scores: the log-probability of each (image, text), among them all candidates of each text.
      images_of: the candidates of each text.
    """
    found: Scores = {}
    for (image, text), score in scores.items():
        others = [scores[other, text] for other in images_of[text].tolist() if other != image]
        # Without others, there is one image only, or one candidate: nothing is compared.
        found[image, text] = score - (float(np.logaddexp.reduce(others)) if others else 0.0)
    return found


def reranked_recalls(
    found: Int[np.ndarray, "n k"],
    pairs: Int[np.ndarray, "p 2"],
    score_of: Callable[[int, int], float],
    cutoffs: Sequence[int],
) -> dict[str, float]:
    """Recall of queries whose candidates are ordered by another score.

    A query is a hit at k if one of its right items is among the k best. A wrong candidate with the
    same score counts as a better one. Right items that are not candidates are not found: without
    ties in either score, recall at the number of candidates is that of the search.

    Args:
      found: the candidates of each query.
      pairs: (query, item) for each right item of each query.
      score_of: the score of a query and an item.
      cutoffs: the k, of which those above the number of candidates are left out.
    """
    right = set(map(tuple, pairs.tolist()))
    ranks = []
    for query in np.unique(pairs[:, 0]).tolist():
        items = found[query].tolist()
        scores = {item: score_of(query, item) for item in items}
        best = max((s for i, s in scores.items() if (query, i) in right), default=None)
        wrong = [s for i, s in scores.items() if (query, i) not in right]
        ranks.append(np.inf if best is None else sum(not s < best for s in wrong))
    return {f"r{k}": float(np.mean([r < k for r in ranks])) for k in cutoffs if k <= found.shape[1]}
