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
    reject_ids,
    videos_of,
)
from coca_jax.errors import UserError
from coca_jax.evaluate.metrics.coco import coco_metrics
from coca_jax.evaluate.metrics.vqa_accuracy import vqa_accuracy
from coca_jax.io.messages import duplicates

HALF = "half of a surrogate pair, which is not a character"


def score_results(
    annotations: str | os.PathLike, results: str | os.PathLike, split: str = ""
) -> dict[str, float]:
    """Returns a challenge's metrics of a result file, which has one text per image or question.

    Args:
      annotations: captions (see `captions_of` and `videos_of`), or VQAv2's answers (see
        `answers_of`).
      results: a JSON list of objects with `image_id` (or `video_id`) and `caption`, or
        `question_id` and `answer`. An id that is a number may be written as a text.
      split: a split of Karpathy's or MSR-VTT's file of captions; empty: all.

    Raises:
      UserError: a file has another format, the two have different ids, or a caption contains half
        of a surrogate pair.
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
        references = {image: entry.captions for image, entry in images.items()}
    reject_ids(annotations, "have no captions", [i for i, texts in references.items() if not texts])
    broken = [i for i, texts in references.items() if not all(map(is_text, texts))]
    reject_ids(annotations, f"have captions with {HALF}", broken)
    captions = read_results(results, references)
    ids = list(references)
    return coco_metrics([captions[i] for i in ids], [references[i] for i in ids])


def _score_answers(right: dict[Any, Any], results: Any) -> dict[str, float]:
    """The VQA challenge's accuracy, in total and per type of answer."""
    answers = read_results(results, right, ("question_id",), "answer")
    by_type: dict[str, list[float]] = {}
    for question, (references, kind) in right.items():
        score = vqa_accuracy(answers[question], references)
        by_type.setdefault(kind.replace("/", "_"), []).append(score)
    total = [score for scores in by_type.values() for score in scores]
    metrics = {"accuracy": sum(total) / len(total)}
    metrics |= {f"accuracy_{k}": sum(s) / len(s) for k, s in sorted(by_type.items())}
    return metrics | {"count": float(len(total))}


def read_results(
    path: str | os.PathLike,
    known: Collection[Any],
    keys: tuple[str, ...] = ("image_id", "video_id"),
    text: str = "caption",
) -> dict[Any, str]:
    """Returns the text of each image or question, by id.

    Args:
      path: a JSON file with a list of objects.
      known: the ids that the file must have.
      keys: the possible names of the id; a row's first one is used.
      text: the name of the text.

    Raises:
      UserError: the file has another format, or ids are duplicated, missing or unknown.
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
    reject_ids(path, f"{what} are duplicated", duplicates(one for one, _ in pairs))
    texts = dict(pairs)
    broken = [one for one, value in pairs if not is_text(value)]
    reject_ids(path, f"have {text}s with {HALF}", broken)
    reject_ids(path, f"{what} have no annotation", texts.keys() - {*known})
    reject_ids(path, f"{what} are missing", {*known} - texts.keys())
    return texts
