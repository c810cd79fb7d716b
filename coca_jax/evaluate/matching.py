"""Image-text matching: which of two texts is about the image, and which is a foil.

As benchmarks of compositionality ask it (SugarCrepe, ARO): two texts that differ in a detail.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from coca_jax.data.captions import listed
from coca_jax.errors import UserError
from coca_jax.evaluate.embed import embed_texts, thumbnail
from coca_jax.evaluate.evenly_spaced import EvenlySpaced
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.vqa import required_text

SAMPLES = 24
ROWS = 256  # pairs at a time, where each is scored beside its image


def evaluate(
    handle: Handle,
    batches: Iterable[dict[str, Any]],
    by: str = "embeddings",
    texts: Sequence[str] = ("texts", "foils"),
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compares each image with its right texts and their foils.

    Args:
      handle: the model.
      batches: of images whose `fields` have both: one of each, or as many.
      by: "embeddings": the cosine similarity; "captions": the decoder's log-probability.
      texts: names of these fields.

    Returns:
      The share of pairs whose right text scores higher (a tie counts as wrong), and the mean
      difference of the scores; for the report some images with what was preferred.

    Raises:
      UserError: there are no such texts, or not as many of both.
    """
    wins, margins, drawn, bad = [], [], EvenlySpaced(SAMPLES), 0
    for batch in batches:
        bad += batch.get("bad_image", 0)
        rows = [_pairs(fields, texts) for fields in batch["fields"]]
        images = [i for i, pairs in enumerate(rows) for _ in pairs]
        pairs = [pair for some in rows for pair in some]
        if not pairs:
            continue
        scores = _scores(handle, batch["image"], images, pairs, by)
        margins += (scores[:, 0] - scores[:, 1]).tolist()
        won = (scores[:, 0] > scores[:, 1]).tolist()
        for image, pair, right in zip(images, pairs, won, strict=True):
            sample = batch["image"][image], *pair, right
            drawn.offer(lambda sample=sample: _sample(*sample))
        wins += won
    if not wins:
        raise UserError(f"matching needs the fields {' and '.join(texts)}, and no example has them")
    metrics = {"accuracy": float(np.mean(wins)), "chance": 0.5, "margin": float(np.mean(margins))}
    metrics |= {"count": float(len(wins)), "bad_images": float(bad)}
    return metrics, {"questions": drawn.chosen()}


def _pairs(fields: dict[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    right, wrong = (
        [required_text(name, text) for text in listed(fields.get(name))] for name in names
    )
    if len(right) != len(wrong):
        raise UserError(f"{len(right)} {names[0]} of an image have {len(wrong)} {names[1]}")
    return list(zip(right, wrong, strict=True))


def _scores(
    handle: Handle,
    pixels: np.ndarray,
    images: Sequence[int],
    pairs: Sequence[tuple[str, str]],
    by: str,
) -> Float[np.ndarray, "n 2"]:
    """Of each pair about the image of this number."""
    if by == "captions":
        parts = [slice(i, i + ROWS) for i in range(0, len(pairs), ROWS)]
        found = [handle.log_probabilities(pixels[images[part]], pairs[part]) for part in parts]
        return np.concatenate([np.asarray(nats) for nats in found])
    images = np.asarray(handle.encode_image(pixels), np.float32)[images]
    embedded = embed_texts(handle, [text for pair in pairs for text in pair])
    return np.einsum("ne,nte->nt", images, embedded.reshape(len(pairs), 2, -1))


def _sample(image: np.ndarray, right: str, wrong: str, won: bool) -> dict[str, Any]:
    return {
        "image": thumbnail(image, 128),
        "question": f"{right} / {wrong}",
        "answer": right if won else wrong,
        "given": right,
        "accuracy": float(won),
    }
