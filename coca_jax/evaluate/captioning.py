"""Image captioning against reference captions: exact match, CIDEr-D and BLEU-4.

CIDEr-D and BLEU-4 are pycocoevalcap's. The words they count are found by `words` below and not by
the PTB tokenizer of the COCO server, which needs Java; on plain English the two differ in
contractions and possessives only, so scores here are close to, not equal to, the server's. A CIDEr
of 1.0 is the 100 of papers' tables.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from coca_jax.errors import UserError
from coca_jax.evaluate.embed import thumbnail
from coca_jax.evaluate.handle import Handle

SAMPLES = 16


def evaluate(
    handle: Handle, batches: Iterable[dict[str, Any]], **options: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Captions every image that has a reference; an example's first caption is its complete one.

    Args:
      handle: the model.
      batches: of images with their captions.
      **options: how captions are generated; see `LoadedModel.caption`.

    Returns:
      The metrics, and for the report a few evenly spaced samples.

    Raises:
      UserError: no example has a caption.
    """
    generated, references, log_probabilities, samples, bad = [], [], [], [], 0
    for batch in batches:
        bad += batch.get("bad_image", 0)
        captions = handle.caption(batch["image"], **options)
        for image, caption, texts in zip(batch["image"], captions, batch["captions"], strict=True):
            texts = [text for text in texts if words(text)]
            if not texts:
                continue
            generated.append(caption.text)
            references.append(texts)
            log_probabilities.append(float(caption.log_probability))
            samples.append(_sample(image, caption.text, log_probabilities[-1], texts))
    if not generated:
        raise UserError("captioning needs reference captions, and no example has one")
    metrics = caption_metrics(generated, references)
    metrics["log_probability"] = sum(log_probabilities) / len(log_probabilities)
    metrics["count"] = float(len(generated))
    metrics["bad_images"] = float(bad)
    return metrics, {"samples": samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]}


def caption_metrics(
    generated: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Scores one generated caption an image against that image's reference captions.

    CIDEr-D weighs n-grams by how rare they are among the references of all images: it is 0 for a
    single image.
    """
    any_match = [_is_exact(text, refs) for text, refs in zip(generated, references, strict=True)]
    first_match = [
        _is_exact(text, refs[:1]) for text, refs in zip(generated, references, strict=True)
    ]
    return {
        "cider": _cider(generated, references),
        "bleu4": _bleu4(generated, references),
        "exact_match": sum(any_match) / len(any_match),
        "exact_match_first": sum(first_match) / len(first_match),
    }


def words(text: str) -> list[str]:
    """Returns the lower-case words: what spaces and punctuation (Unicode's P categories) separate.

    An apostrophe inside a word is dropped, so "don't" is "dont".
    """
    text = text.lower().replace("'", "").replace("’", "")
    spaced = (" " if unicodedata.category(c).startswith("P") else c for c in text)
    return "".join(spaced).split()


def _is_exact(text: str, references: Sequence[str]) -> bool:
    """Whether the text is one of the references, but for case and white space."""
    return _plain(text) in map(_plain, references)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _cider(generated: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from pycocoevalcap.cider.cider import Cider

    score, _ = Cider().compute_score(*_as_corpus(generated, references))
    return float(score)


def _bleu4(generated: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from pycocoevalcap.bleu.bleu import Bleu

    scores, _ = Bleu(4).compute_score(*_as_corpus(generated, references), verbose=0)
    return float(scores[3])


def _as_corpus(
    generated: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Returns pycocoevalcap's form: image -> references, image -> [generated text]."""
    expected = {i: [" ".join(words(r)) for r in refs] for i, refs in enumerate(references)}
    return expected, {i: [" ".join(words(text))] for i, text in enumerate(generated)}


def _sample(image: Any, text: str, log_probability: float, references: list[str]) -> dict[str, Any]:
    return {
        "image": thumbnail(image, 256),
        "caption": text,
        "log_probability": log_probability,
        "references": references,
        "exact": _is_exact(text, references),
    }
