"""Generated captions against references: exact match, and the metrics of the COCO server.

CIDEr-D, BLEU, ROUGE-L and (where Java is) METEOR are pycocoevalcap's, on the words that `ptb` finds
as the server's tokenizer does. A CIDEr of 1.0 is the 100 of papers' tables.
"""

from collections.abc import Sequence

from coca_jax.evaluate.metrics.meteor import meteor
from coca_jax.evaluate.metrics.ptb import tokenize
from coca_jax.evaluate.metrics.undefined import Undefined

METRICS = ("cider", "bleu4", "bleu1", "bleu2", "bleu3", "rouge_l", "meteor")


def caption_metrics(
    generated: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores one generated caption an image against that image's reference captions.

    CIDEr-D weighs n-grams by how rare they are among the references of all images: it is undefined
    for a single image.

    Returns:
      `cider`, `bleu1` to `bleu4`, `rouge_l`, `meteor` (undefined where Java does not work), and the
      shares of captions that are one of the references, or the first, but for case and white space.
    """
    metrics = coco_metrics(generated, references)
    pairs = list(zip(generated, references, strict=True))
    for name, most in (("exact_match", None), ("exact_match_first", 1)):
        metrics[name] = sum(is_exact(text, refs[:most]) for text, refs in pairs) / len(pairs)
    return metrics


def coco_metrics(generated: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores captions as the COCO server does.

    Args:
      generated: one caption an image.
      references: of each image.

    Returns:
      METRICS, CIDEr-D first; undefined ones say why.
    """
    expected = {i: [" ".join(tokenize(r)) for r in refs] for i, refs in enumerate(references)}
    candidates = {i: [" ".join(tokenize(text))] for i, text in enumerate(generated)}
    most = max(len(text.split()) for texts in expected.values() for text in texts)
    if not most:
        return dict.fromkeys(METRICS, Undefined("no reference caption has a word"))
    metrics = _pycocoevalcap(expected, candidates)
    for n in range(most + 1, 5):
        metrics[f"bleu{n}"] = Undefined(f"no reference caption has {n} words")
    if not _tells_apart(list(expected.values())):
        metrics["cider"] = Undefined(
            "CIDEr weighs words by how few of the images they are said of: it needs references of "
            "several images that differ"
        )
    metrics["meteor"] = meteor([text for (text,) in candidates.values()], list(expected.values()))
    return metrics


def _pycocoevalcap(
    expected: dict[int, list[str]], candidates: dict[int, list[str]]
) -> dict[str, float]:
    """The package's metrics of words with spaces between."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(expected, candidates, verbose=0)
    cider, rouge = (scorer.compute_score(expected, candidates)[0] for scorer in (Cider(), Rouge()))
    values = (cider, bleu[3], *bleu[:3], rouge)
    return {name: float(value) for name, value in zip(METRICS, values, strict=False)}


def _tells_apart(references: Sequence[Sequence[str]]) -> bool:
    """Whether any n-gram of up to four words is in the references of only a part of the images."""
    from pycocoevalcap.cider.cider_scorer import cook_refs

    def ngrams(texts: Sequence[str]) -> set[tuple[str, ...]]:
        return {words for counts in cook_refs(texts) for words in counts}

    first = ngrams(references[0])
    return any(ngrams(texts) != first for texts in references[1:])


def is_exact(text: str, references: Sequence[str]) -> bool:
    """Whether the text is one of the references, apart from case and white space."""
    return _plain(text) in map(_plain, references)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
