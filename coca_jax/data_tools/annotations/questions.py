"""Reads VQAv2's two files: questions about images, and their answers."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, reject_ids
from coca_jax.errors import UserError
from coca_jax.io.messages import duplicates


def answers_of(path: str | os.PathLike, content: Any) -> dict[Any, tuple[list[str], str]]:
    """Returns people's answers to each question of VQAv2 and the answers' type, by question id.

    Args:
      path: the file's path, for messages.
      content: the content of a JSON file with `annotations`, each with `question_id`, `answers`
        (each with `answer`) and `answer_type`.

    Raises:
      UserError: the content has another format, or a duplicate question.
    """
    by_question = {}
    rows = _listed(path, content, "annotations")
    kinds = {"question_id": Id, "answers": list, "answer_type": str}
    parsed = [fields(number_of(path, i, "rows"), row, **kinds) for i, row in enumerate(rows)]
    reject_ids(path, "of questions are duplicated", duplicates(row[0] for row in parsed))
    for question, answers, kind in parsed:
        what = f"answers to question {question}"
        texts = [
            fields(number_of(path, i, what), row, answer=str)[0] for i, row in enumerate(answers)
        ]
        if not texts:
            raise UserError(f"{path}: question {question} has no answers")
        by_question[question] = (texts, kind)
    return by_question


def has_answers(content: Any) -> bool:
    """Whether this is the content of VQAv2's file of answers."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    return _has_questions(rows)


def is_of_vqa(content: Any) -> bool:
    """Whether this is the content of one of VQAv2's two files."""
    rows = content.get("questions") if isinstance(content, dict) else None
    return has_answers(content) or _has_questions(rows)


def question_rows(
    questions: str | os.PathLike,
    asking: Any,
    annotations: str | os.PathLike = "",
    answering: Any = None,
) -> Rows:
    """Returns a row for each image that has questions, from VQAv2's two files in either order.

    Args:
      questions: the path of one file, for messages.
      asking: the content of that file.
      annotations: the path of the other file, for messages.
      answering: the content of the other file; None: a test split, which has no answers.

    Raises:
      UserError: a file has another format, or the two are not about the same questions.
    """
    if has_answers(asking) and answering is None:
        raise UserError(f"{questions} has VQAv2's answers: also give the file of the questions")
    if has_answers(asking):
        questions, annotations, asking, answering = annotations, questions, answering, asking
    answers = None if answering is None else answers_of(annotations, answering)
    rows = _listed(questions, asking, "questions")
    asked = [
        fields(number_of(questions, i, "rows"), row, question_id=Id, image_id=int, question=str)
        for i, row in enumerate(rows)
    ]
    reject_ids(questions, "of questions are duplicated", duplicates(row[0] for row in asked))
    if answers is not None:
        ids = {row[0] for row in asked}
        reject_ids(annotations, "of questions are answered but not asked", answers.keys() - ids)
        reject_ids(annotations, "of questions have no answer", ids - answers.keys())
    (kind,) = fields(str(questions), asking, data_subtype=str)
    kind = kind.replace("test-dev", "test")  # test-dev uses the test split's images
    by_image: dict[Any, dict[str, Any]] = {}
    for question, image, text in asked:
        empty = {"image": f"COCO_{kind}_{image:012}.jpg", "image_id": image}
        row = by_image.setdefault(image, empty)
        row.setdefault("questions", []).append(text)
        row.setdefault("question_ids", []).append(question)
        if answers is not None:
            row.setdefault("answers", []).append(answers[question][0])
            row.setdefault("answer_types", []).append(answers[question][1])
    return Rows(list(by_image.values()))


def _has_questions(rows: Any) -> bool:
    first = rows[0] if isinstance(rows, list) and rows else None
    return isinstance(first, dict) and "question_id" in first


def _listed(path: Any, content: Any, key: str) -> list[Any]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} has no `{key}`: it is not VQAv2's file of {key}")
    return rows
