"""Image captioning: a caption of every image, scored against reference captions."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca_jax.errors import UserError
from coca_jax.evaluate.base import Caption, Model, Results
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.generation import Generation
from coca_jax.evaluate.image_ids import UniqueImages
from coca_jax.evaluate.metrics.coco import caption_metrics, is_exact
from coca_jax.evaluate.samples import EvenlySpaced, thumbnail
from coca_jax.fields import field, text
from coca_jax.patches import Images, copied, stack

SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class Captioning(Generation):
    """Captions every image, and scores those that have a reference."""

    requires = "captioning"

    prompt: str = field("", "What captions begin with.", text())

    def run(self, model: Model, data: EvaluationData) -> Results:
        """Returns what `caption_images` does of the batches."""
        prompt = {"prompt": self.prompt} if self.prompt else {}
        return caption_images(model, data.batches(), **self.caption_options, **prompt)


def caption_images(model: Model, batches: Iterable[dict[str, Any]], **options: Any) -> Results:
    """Captions every image.

    Records of one image are one image (`image_ids`), with the references of all.

    Args:
      model: generates the captions.
      batches: of images with their captions.
      **options: of `LoadedModel.caption`.

    Returns:
      The `caption_metrics` of the images that have a reference caption. For the report a few evenly
      spaced samples, with the attention of their words; and `files`: all captions as the COCO
      server takes them (`results`), and, where there are several of an image, those (`n_best`).

    Raises:
      UserError: no example has a caption, or all have the same image id.
    """
    images, captions, samples = UniqueImages(batches), [], EvenlySpaced(SAMPLES)
    for pixels in images:
        for image, caption in zip(pixels, model.caption(pixels, **options), strict=True):
            number = len(captions)
            captions.append(caption)
            if _with_words(images.captions[number]):
                samples.offer(lambda image=image, number=number: (copied(image), number))
    images.ids.check()
    references = [_with_words(texts) for texts in images.captions]
    scored = [number for number, texts in enumerate(references) if texts]
    if not scored:
        raise UserError("captioning needs reference captions, and no example has one")
    metrics = caption_metrics([captions[i].text for i in scored], [references[i] for i in scored])
    nats = [float(captions[i].log_probability) for i in scored]
    metrics["log_probability"] = sum(nats) / len(nats)
    metrics["count"] = float(len(scored))
    metrics["bad_images"] = float(images.bad_images)
    drawn = [(image, captions[i], references[i]) for image, i in samples.chosen()]
    files = _files(images.ids.ids(), captions)
    return metrics, {"samples": _drawn(model, drawn) if drawn else [], "files": files}


def _with_words(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if any(map(str.isalnum, text))]


def _files(ids: Sequence[int | str], captions: Sequence[Caption]) -> dict[str, Any]:
    """Captions as the COCO server takes them and, where there are several of an image, all."""
    pairs = list(zip(ids, captions, strict=True))
    results = [{"image_id": image_id, "caption": caption.text} for image_id, caption in pairs]
    n_best = [{"image_id": i, "captions": _ranked(c)} for i, c in pairs if c.others]
    return {"results": results} | ({"n_best": n_best} if n_best else {})


def _ranked(caption: Caption) -> list[dict[str, Any]]:
    """All captions of an image, the best first."""
    return [
        {"caption": one.text, "log_probability": float(one.log_probability)}
        for one in (caption, *caption.others)
    ]


def _drawn(
    model: Model, samples: Sequence[tuple[Images, Caption, list[str]]]
) -> list[dict[str, Any]]:
    """The report's samples, each with where the model looked for each of its words."""
    pixels, texts = stack([image for image, *_ in samples]), [c.text for _, c, _ in samples]
    return [
        {
            "image": thumbnail(image, 256),
            "caption": caption.text,
            "log_probability": float(caption.log_probability),
            "references": references,
            "exact": is_exact(caption.text, references),
            "attention": [{"word": word, "map": _rounded(weights)} for word, weights in words],
        }
        for (image, caption, references), words in zip(
            samples, model.attention_maps(pixels, texts), strict=True
        )
    ]


def _rounded(weights: Float32[np.ndarray, "rows columns"]) -> list[list[float]]:
    return weights.astype(float).round(5).tolist()
