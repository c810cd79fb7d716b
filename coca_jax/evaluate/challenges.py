"""Result files of the COCO and VQA challenges, scored against their annotations."""

import os
from collections.abc import Mapping
from typing import Any

from coca_jax.data.annotations import (
    fields,
    is_questions,
    read_answers,
    read_captions,
    read_json,
    refuse,
    twice,
)
from coca_jax.errors import UserError
from coca_jax.evaluate import answers
from coca_jax.evaluate.captioning import coco_metrics
from coca_jax.evaluate.results import write_json


def score_results(
    annotations: str | os.PathLike, results: str | os.PathLike, split: str = ""
) -> dict[str, float]:
    """The challenge's metrics of a result file, which has one text for every image or question.

    Args:
      annotations: captions (see `read_captions`), or VQAv2's answers (see `read_answers`).
      results: a list of objects with `image_id` and `caption`, or `question_id` and `answer`.
      split: of Karpathy's file of captions.

    Raises:
      UserError: a file is not what it should be, or they are not about the same ones.
    """
    if is_questions(annotations):
        return _score_answers(annotations, results, split)
    references = {
        image: found.captions for image, found in read_captions(annotations, split).items()
    }
    captions = read_results(results)
    refuse(results, "of images have no annotation", captions.keys() - references.keys())
    refuse(results, "of images are missing", references.keys() - captions.keys())
    images = list(references)
    return coco_metrics([captions[i] for i in images], [references[i] for i in images])


def _score_answers(annotations: Any, results: Any, split: str) -> dict[str, float]:
    """The VQA challenge's accuracy, and by its types of answers."""
    if split:
        raise UserError(f"{annotations} is a file of VQAv2, which has no split {split!r}")
    right, found = read_answers(annotations), read_results(results, "question_id", "answer")
    refuse(results, "of questions have no annotation", found.keys() - right.keys())
    refuse(results, "of questions are missing", right.keys() - found.keys())
    by_type: dict[str, list[float]] = {}
    for question, (given, kind) in right.items():
        score = answers.accuracy(found[question], given)
        by_type.setdefault(kind.replace("/", "_"), []).append(score)
    every = [score for scores in by_type.values() for score in scores]
    metrics = {"accuracy": sum(every) / len(every)}
    metrics |= {f"accuracy_{k}": sum(some) / len(some) for k, some in sorted(by_type.items())}
    return metrics | {"count": float(len(every))}


def read_results(
    path: str | os.PathLike, key: str = "image_id", text: str = "caption"
) -> dict[Any, str]:
    """The text of each image or question.

    Args:
      path: a JSON file: a list of objects.
      key: what they are told apart by.
      text: under which the text is.

    Raises:
      UserError: it is no such list, or has one twice.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} should be a list of objects with {key} and {text}")
    pairs = [fields(path, i, row, key, text) for i, row in enumerate(rows)]
    refuse(path, f"of {key.removesuffix('_id')}s are there twice", twice(one for one, _ in pairs))
    return dict(pairs)


def write_results_file(path: str | os.PathLike, captions: Mapping[int, str]) -> None:
    """Writes captions as the COCO server takes them."""
    write_json([{"image_id": image, "caption": text} for image, text in captions.items()], path)
