"""Result files of the COCO, MSR-VTT and VQA challenges, scored against their annotations."""

import os
from collections.abc import Collection
from typing import Any

from coca_jax.data.sources.base import is_text
from coca_jax.data_tools.annotations import (
    answers_of,
    captions_of,
    fields,
    has_answers,
    has_videos,
    read_json,
    refuse,
    twice,
    videos_of,
)
from coca_jax.errors import UserError
from coca_jax.evaluate.metrics.coco import coco_metrics
from coca_jax.evaluate.metrics.vqa_accuracy import vqa_accuracy

HALF = "half of a surrogate pair, which is no character"


def score_results(
    annotations: str | os.PathLike, results: str | os.PathLike, split: str = ""
) -> dict[str, float]:
    """The challenge's metrics of a result file, which has one text for every image or question.

    Args:
      annotations: captions (see `captions_of` and `videos_of`), or VQAv2's answers (see
        `answers_of`).
      results: a list of objects with `image_id` (or `video_id`) and `caption`, or `question_id`
        and `answer`. A number may be written as a text.
      split: of Karpathy's or MSR-VTT's file of captions.

    Raises:
      UserError: a file is not what it should be, they are not about the same ones, or a caption
        is no text (half of a surrogate pair).
    """
    content = read_json(annotations)
    if has_answers(content):
        if split:
            raise UserError(f"{annotations} is a file of VQAv2, which has no split {split!r}")
        return _score_answers(answers_of(annotations, content), results)
    if has_videos(content):
        videos = videos_of(annotations, content, split)
        references = {video: row["captions"] for video, row in videos.items()}
    else:
        images = captions_of(annotations, content, split)
        references = {image: known.captions for image, known in images.items()}
    refuse(annotations, "have no captions", [i for i, texts in references.items() if not texts])
    broken = [i for i, texts in references.items() if not all(map(is_text, texts))]
    refuse(annotations, f"have captions with {HALF}", broken)
    captions = read_results(results, references)
    ids = list(references)
    return coco_metrics([captions[i] for i in ids], [references[i] for i in ids])


def _score_answers(right: dict[Any, Any], results: Any) -> dict[str, float]:
    """The VQA challenge's accuracy, also by its types of answers."""
    answers = read_results(results, right, ("question_id",), "answer")
    by_type: dict[str, list[float]] = {}
    for question, (given, kind) in right.items():
        score = vqa_accuracy(answers[question], given)
        by_type.setdefault(kind.replace("/", "_"), []).append(score)
    every = [score for scores in by_type.values() for score in scores]
    metrics = {"accuracy": sum(every) / len(every)}
    metrics |= {f"accuracy_{k}": sum(of) / len(of) for k, of in sorted(by_type.items())}
    return metrics | {"count": float(len(every))}


def read_results(
    path: str | os.PathLike,
    known: Collection[Any],
    keys: tuple[str, ...] = ("image_id", "video_id"),
    text: str = "caption",
) -> dict[Any, str]:
    """The text of each image or question.

    Args:
      path: a JSON file: a list of objects.
      known: the ids that must be there.
      keys: names of the id; the first that a row has is taken.
      text: under which the text is.

    Raises:
      UserError: it is no such list, or ids are repeated, missing or not known.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} should be a list of objects with {keys[0]} and {text}")
    if rows and isinstance(rows[0], dict) and f"{text}s" in rows[0]:
        raise UserError(f"{path} has several {text}s of each: results are to have one `{text}`")
    spelled, pairs = {str(one): one for one in known}, []
    for i, row in enumerate(rows):
        key = next((k for k in keys if isinstance(row, dict) and k in row), keys[0])
        one, value = fields(f"{path}: number {i} of rows", row, **{key: int | str, text: str})
        pairs.append((spelled.get(str(one), one), value))
    what = f"of {keys[0].removesuffix('_id')}s"
    refuse(path, f"{what} are there twice", twice(one for one, _ in pairs))
    texts = dict(pairs)
    broken = [one for one, value in pairs if not is_text(value)]
    refuse(path, f"have {text}s with {HALF}", broken)
    refuse(path, f"{what} have no annotation", texts.keys() - {*known})
    refuse(path, f"{what} are missing", {*known} - texts.keys())
    return texts
