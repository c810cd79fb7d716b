"""Result files of the COCO and VQA challenges, scored against their annotations."""

import os
from typing import Any

from coca_jax.data.annotations import (
    answers_of,
    captions_of,
    fields,
    has_answers,
    read_json,
    refuse,
    twice,
)
from coca_jax.errors import UserError
from coca_jax.evaluate import answers
from coca_jax.evaluate.captioning import coco_metrics


def score_results(
    annotations: str | os.PathLike, results: str | os.PathLike, split: str = ""
) -> dict[str, float]:
    """The challenge's metrics of a result file, which has one text for every image or question.

    Args:
      annotations: captions (see `captions_of`), or VQAv2's answers (see `answers_of`).
      results: a list of objects with `image_id` and `caption`, or `question_id` and `answer`.
      split: of Karpathy's file of captions.

    Raises:
      UserError: a file is not what it should be, or they are not about the same ones.
    """
    content = read_json(annotations)
    if has_answers(content):
        if split:
            raise UserError(f"{annotations} is a file of VQAv2, which has no split {split!r}")
        return _score_answers(answers_of(annotations, content), results)
    references = {
        image: found.captions for image, found in captions_of(annotations, content, split).items()
    }
    captions = read_results(results)
    refuse(results, "of images have no annotation", captions.keys() - references.keys())
    refuse(results, "of images are missing", references.keys() - captions.keys())
    images = list(references)
    return coco_metrics([captions[i] for i in images], [references[i] for i in images])


def _score_answers(right: dict[Any, Any], results: Any) -> dict[str, float]:
    """The VQA challenge's accuracy, and by its types of answers."""
    found = read_results(results, "question_id", "answer")
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
