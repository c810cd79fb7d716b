"""Image captioning against reference captions: exact match, and the COCO server's metrics.

CIDEr-D, BLEU, ROUGE-L and (where Java is) METEOR are pycocoevalcap's, on the words that `ptb` finds
as the server's tokenizer does. A CIDEr of 1.0 is the 100 of papers' tables.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from coca_jax.errors import UserError
from coca_jax.evaluate.embed import thumbnail
from coca_jax.evaluate.handle import Caption, Handle
from coca_jax.evaluate.meteor import meteor
from coca_jax.evaluate.ptb import tokenize
from coca_jax.evaluate.spaced import EvenlySpaced
from coca_jax.evaluate.undefined import Undefined

SAMPLES = 16
# Of a record (TFDS has COCO's id in "image/id"); without one, its number in the data set, from 0.
ID_FIELDS = ("image_id", "cocoid", "image/id")


def evaluate(
    handle: Handle, batches: Iterable[dict[str, Any]], **options: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Captions every image, and judges those that have a reference; the first is the complete one.

    Args:
      handle: the model.
      batches: of images with their captions.
      **options: how captions are generated; see `LoadedModel.caption`.

    Returns:
      The metrics; for the report a few evenly spaced samples, with the attention of their words;
      and `files`: all captions as the COCO server takes them (`results`), and, where there are
      several of an image, those (`n_best`).

    Raises:
      UserError: no example has a caption.
    """
    generated, references, log_probabilities, bad = [], [], [], 0
    results: list[dict[str, Any]] = []
    several: list[dict[str, Any]] = []
    samples = EvenlySpaced(SAMPLES)
    for batch in batches:
        bad += batch.get("bad_image", 0)
        captions = handle.caption(batch["image"], **options)
        fields = batch.get("fields", [{}] * len(captions))
        places = batch.get("index", range(len(results), len(results) + len(captions)))
        rows = zip(batch["image"], captions, batch["captions"], fields, places, strict=True)
        for image, caption, texts, known, place in rows:
            number = next((known[key] for key in ID_FIELDS if key in known), place)
            results.append({"image_id": number, "caption": caption.text})
            if caption.others:
                several.append({"image_id": number, "captions": _listed(caption)})
            texts = [text for text in texts if any(map(str.isalnum, text))]
            if not texts:
                continue
            generated.append(caption.text)
            references.append(texts)
            log_probabilities.append(float(caption.log_probability))
            known = (caption.text, log_probabilities[-1], texts)
            samples.offer(lambda image=image, known=known: (np.array(image), *known))
    if not generated:
        raise UserError("captioning needs reference captions, and no example has one")
    metrics = caption_metrics(generated, references)
    metrics["log_probability"] = sum(log_probabilities) / len(log_probabilities)
    metrics["count"] = float(len(generated))
    metrics["bad_images"] = float(bad)
    files = {"results": results} | ({"n_best": several} if several else {})
    return metrics, {"samples": _drawn(handle, samples.chosen()), "files": files}


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
        metrics[name] = sum(_is_exact(text, refs[:most]) for text, refs in pairs) / len(pairs)
    return metrics


def coco_metrics(generated: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The metrics among these that are pycocoevalcap's, CIDEr-D first."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    expected = {i: [" ".join(tokenize(r)) for r in refs] for i, refs in enumerate(references)}
    found = {i: [" ".join(tokenize(text))] for i, text in enumerate(generated)}
    bleu, _ = Bleu(4).compute_score(expected, found, verbose=0)
    metrics = {"cider": Cider().compute_score(expected, found)[0], "bleu4": bleu[3]}
    metrics |= {f"bleu{n}": bleu[n - 1] for n in (1, 2, 3)}
    metrics["rouge_l"] = Rouge().compute_score(expected, found)[0]
    metrics = {name: float(value) for name, value in metrics.items()}
    if not _tells_apart(list(expected.values())):
        metrics["cider"] = Undefined(
            "CIDEr weighs words by how few of the images they are said of: it needs references of "
            "several images that differ"
        )
    meteor_score = meteor([text for (text,) in found.values()], list(expected.values()))
    return metrics | {"meteor": meteor_score}


def _tells_apart(references: Sequence[Sequence[str]]) -> bool:
    """Whether any words, up to four in a row, are in the references of some images only."""
    from pycocoevalcap.cider.cider_scorer import cook_refs

    def ngrams(texts: Sequence[str]) -> set[tuple[str, ...]]:
        return {words for counts in cook_refs(texts) for words in counts}

    first = ngrams(references[0])
    return any(ngrams(texts) != first for texts in references[1:])


def _is_exact(text: str, references: Sequence[str]) -> bool:
    """Whether the text is one of the references, but for case and white space."""
    return _plain(text) in map(_plain, references)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _listed(caption: Caption) -> list[dict[str, Any]]:
    """All captions of an image, the best first."""
    return [
        {"caption": one.text, "log_probability": float(one.log_probability)}
        for one in (caption, *caption.others)
    ]


def _drawn(
    handle: Handle, samples: Sequence[tuple[UInt8[np.ndarray, "h w 3"], str, float, list[str]]]
) -> list[dict[str, Any]]:
    """The report's samples, each with where the model looked for each of its words."""
    images, texts = np.stack([image for image, *_ in samples]), [text for _, text, *_ in samples]
    return [
        {
            "image": thumbnail(image, 256),
            "caption": text,
            "log_probability": log_probability,
            "references": references,
            "exact": _is_exact(text, references),
            "attention": [{"word": word, "map": _rounded(weights)} for word, weights in words],
        }
        for (image, text, log_probability, references), words in zip(
            samples, handle.attention_maps(images, texts), strict=True
        )
    ]


def _rounded(weights: Float32[np.ndarray, "rows columns"]) -> list[list[float]]:
    return weights.astype(float).round(5).tolist()
