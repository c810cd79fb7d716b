"""The report's captions: what was written, where the model looked, and what it wrote earlier."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from coca_jax.observe.report.run import Run
from coca_jax.observe.report.text import esc, image, image_url, section, table

REFERENCES = 3
LOOKS = 4  # samples whose attention is drawn at once; that of others is folded away
MASK = 96  # pixels of a map's longer side
FOLLOWED, STEPS = 4, 8  # images that are followed through training; most steps of each


def captions(name: str, samples: list[dict[str, Any]], folder: epath.Path) -> str:
    """Draws a card for each of the evaluation's samples."""
    exact = sum(sample["exact"] for sample in samples)
    lead = (
        f"{len(samples)} images of {name}, evenly spaced: what the model wrote, its "
        "log-probability, and the reference captions. Exactly a reference: "
        f"{exact} of {len(samples)}."
    )
    cards = "".join(_caption(sample, folder) for sample in samples)
    return section("Captions", lead, f'<div class="grid samples">{cards}</div>')


def _caption(sample: dict[str, Any], folder: epath.Path) -> str:
    references = sample["references"]
    more = len(references) - REFERENCES
    lines = references[:REFERENCES] + ([f"and {more} more"] if more > 0 else [])
    listed = "".join(f"<li>{esc(line)}</li>" for line in lines)
    badge = '<span class="badge">✓ exact</span>' if sample["exact"] else ""
    return (
        f'<div class="card sample">{image(folder, sample["image"], sample["caption"])}<div>'
        f'<p class="caption">{esc(sample["caption"]) or "(nothing)"}</p>'
        f'<div class="row"><span class="muted">log p = {_log_probability(sample)}</span>'
        f'{badge}</div><ul class="references">{listed}</ul></div></div>'
    )


def _log_probability(sample: dict[str, Any]) -> str:
    value = sample["log_probability"]  # null where the model gave its text no chance at all
    return "−∞" if value is None else f"{value:.2f}".replace("-", "−")


def attention(name: str, samples: list[dict[str, Any]], folder: epath.Path) -> str:
    """Draws each sample once for each word of its caption, lit where attention went for it."""
    samples = [sample for sample in samples if sample.get("attention")]
    if not samples:
        return ""
    lead = (
        f"Where attention went in images of {name} for each word that was written: the decoder's, "
        "by way of the caption pooler where there is one, means of heads and layers. The patch "
        "with the most is fully lit, others in proportion. These are weights of attention, and no "
        "measure of what a word depends on."
    )
    cards = [_looks(sample, folder) for sample in samples]
    body = "".join(cards[:LOOKS])
    if rest := cards[LOOKS:]:
        body += f"<details><summary>More images ({len(rest)})</summary>{''.join(rest)}</details>"
    return section("Attention", lead, body)


def _looks(sample: dict[str, Any], folder: epath.Path) -> str:
    # Of a model that has diverged, weights are null.
    looks = [(e["word"], np.nan_to_num(np.array(e["map"], float))) for e in sample["attention"]]
    shown = "".join(_look(*look) for look in looks)
    rows, columns = looks[0][1].shape
    url = image_url(folder, sample["image"])
    picture = f"--aspect:{columns}/{rows};--plot:url({url})"
    return (
        f'<div class="looks" style="{picture}"><figure><div class="look whole"></div>'
        f"<figcaption>the image</figcaption></figure>{shown}</div>"
    )


def _look(word: str, weights: Float[np.ndarray, "rows columns"]) -> str:
    tip = f"{word}: {weights.max():.1%} in the patch with the most, of {weights.size}"
    return (
        f'<figure title="{esc(tip)}"><div class="look" style="--light:url({_light(weights)})">'
        f"<i></i></div><figcaption>{esc(word)}</figcaption></figure>"
    )


def _light(weights: Float[np.ndarray, "rows columns"]) -> str:
    """A picture whose patches are as opaque as their share of the largest weight."""
    import cv2

    shares = np.rint(255 * weights / max(weights.max(), 1e-12)).astype(np.uint8)
    # Browsers blur what they enlarge, and few patches would run into each other.
    size = max(1, MASK // max(shares.shape))
    shares = shares.repeat(size, axis=0).repeat(size, axis=1)
    pixels = np.dstack([np.zeros((*shares.shape, 3), np.uint8), shares])
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def through_training(name: str, run: Run) -> str:
    """Draws what the evaluation's captions were at each evaluated step; nothing if it was one."""
    by_step = run.captions[name]
    often = [
        file
        for file in by_step[max(by_step)]
        if sum(file in found for found in by_step.values()) > 1
    ]
    if not often:
        return ""
    followed = spaced(often, FOLLOWED)
    cards = "".join(_history(file, by_step, run.artefacts_folder) for file in followed)
    lead = f"What was written of some images of {name} at {len(by_step)} steps of training."
    body = f'<div class="grid samples">{cards}</div>'
    return section("Captions through training", lead, body)


def _history(file: str, by_step: dict[int, dict[str, Any]], folder: epath.Path) -> str:
    steps = spaced([step for step, found in by_step.items() if file in found], STEPS)
    rows = {f"{step:,}": _written(by_step[step][file]) for step in steps}
    return (
        f'<div class="card sample history">{image(folder, file, "sample")}<div>{table(rows)}</div>'
        "</div>"
    )


def _written(sample: dict[str, Any]) -> str:
    badge = (
        '&nbsp;<span class="badge" title="exactly a reference">✓</span>' if sample["exact"] else ""
    )
    return f"{esc(sample['caption']) or '(nothing)'}{badge}"


def spaced(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
