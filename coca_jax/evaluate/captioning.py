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
from coca_jax.evaluate.evenly_spaced import EvenlySpaced
from coca_jax.evaluate.handle import Caption, Handle
from coca_jax.evaluate.image_ids import UniqueImages
from coca_jax.evaluate.meteor import meteor
from coca_jax.evaluate.ptb import tokenize
from coca_jax.evaluate.undefined import Undefined

SAMPLES = 16
METRICS = ("cider", "bleu4", "bleu1", "bleu2", "bleu3", "rouge_l", "meteor")


def evaluate(
    handle: Handle, batches: Iterable[dict[str, Any]], **options: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Captions every image, and judges those that have a reference; the first is the complete one.

    Records of one image are one image (`image_ids`), with the references of all.

    Args:
      handle: the model.
      batches: of images with their captions.
      **options: how captions are generated; see `LoadedModel.caption`.

    Returns:
      The metrics; for the report a few evenly spaced samples, with the attention of their words;
      and `files`: all captions as the COCO server takes them (`results`), and, where there are
      several of an image, those (`n_best`).

    Raises:
      UserError: no example has a caption, or all have the same image id.
    """
    images, captions, samples = UniqueImages(batches), [], EvenlySpaced(SAMPLES)
    for pixels in images:
        for image, caption in zip(pixels, handle.caption(pixels, **options), strict=True):
            number = len(captions)
            captions.append(caption)
            if _with_words(images.captions[number]):
                samples.offer(lambda image=image, number=number: (np.array(image), number))
    images.ids.check()
    references = [_with_words(texts) for texts in images.captions]
    judged = [number for number, texts in enumerate(references) if texts]
    if not judged:
        raise UserError("captioning needs reference captions, and no example has one")
    metrics = caption_metrics([captions[i].text for i in judged], [references[i] for i in judged])
    nats = [float(captions[i].log_probability) for i in judged]
    metrics["log_probability"] = sum(nats) / len(nats)
    metrics["count"] = float(len(judged))
    metrics["bad_images"] = float(images.bad_images)
    drawn = [(image, captions[i], references[i]) for image, i in samples.chosen()]
    files = _files(images.ids.ids(), captions)
    return metrics, {"samples": _drawn(handle, drawn) if drawn else [], "files": files}


def _with_words(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if any(map(str.isalnum, text))]


def _files(ids: Sequence[int | str], captions: Sequence[Caption]) -> dict[str, Any]:
    """Captions as the COCO server takes them and, where there are several of an image, all."""
    pairs = list(zip(ids, captions, strict=True))
    results = [{"image_id": one, "caption": caption.text} for one, caption in pairs]
    several = [
        {"image_id": one, "captions": _listed(caption)} for one, caption in pairs if caption.others
    ]
    return {"results": results} | ({"n_best": several} if several else {})


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
    expected = {i: [" ".join(tokenize(r)) for r in refs] for i, refs in enumerate(references)}
    found = {i: [" ".join(tokenize(text))] for i, text in enumerate(generated)}
    most = max(len(text.split()) for texts in expected.values() for text in texts)
    if not most:
        return dict.fromkeys(METRICS, Undefined("no reference caption has a word"))
    metrics = _pycocoevalcap(expected, found)
    for n in range(most + 1, 5):
        metrics[f"bleu{n}"] = Undefined(f"no reference caption has {n} words")
    if not _tells_apart(list(expected.values())):
        metrics["cider"] = Undefined(
            "CIDEr weighs words by how few of the images they are said of: it needs references of "
            "several images that differ"
        )
    metrics["meteor"] = meteor([text for (text,) in found.values()], list(expected.values()))
    return metrics


def _pycocoevalcap(expected: dict[int, list[str]], found: dict[int, list[str]]) -> dict[str, float]:
    """What it computes of words with spaces between."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(expected, found, verbose=0)
    cider, rouge = (scorer.compute_score(expected, found)[0] for scorer in (Cider(), Rouge()))
    values = (cider, bleu[3], *bleu[:3], rouge)
    return {name: float(value) for name, value in zip(METRICS, values, strict=False)}


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
    handle: Handle, samples: Sequence[tuple[UInt8[np.ndarray, "h w 3"], Caption, list[str]]]
) -> list[dict[str, Any]]:
    """The report's samples, each with where the model looked for each of its words."""
    pixels, texts = np.stack([image for image, *_ in samples]), [c.text for _, c, _ in samples]
    return [
        {
            "image": thumbnail(image, 256),
            "caption": caption.text,
            "log_probability": float(caption.log_probability),
            "references": references,
            "exact": _is_exact(caption.text, references),
            "attention": [{"word": word, "map": _rounded(weights)} for word, weights in words],
        }
        for (image, caption, references), words in zip(
            samples, handle.attention_maps(pixels, texts), strict=True
        )
    ]


def _rounded(weights: Float32[np.ndarray, "rows columns"]) -> list[list[float]]:
    return weights.astype(float).round(5).tolist()
