"""Questions about images and their answers: VQAv2's two files."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, refuse, twice
from coca_jax.errors import UserError


def answers_of(path: str | os.PathLike, content: Any) -> dict[Any, tuple[list[str], str]]:
    """What people answered to each question of VQAv2, and the type of the answer, by question.

    Args:
      path: of the file, for messages.
      content: of a JSON file with `annotations`, each with `question_id`, `answers` (each with
        `answer`) and `answer_type`.

    Raises:
      UserError: it is no such file, or has a question twice.
    """
    found = {}
    rows = _listed(path, content, "annotations")
    kinds = {"question_id": Id, "answers": list, "answer_type": str}
    parsed = [fields(number_of(path, i, "rows"), row, **kinds) for i, row in enumerate(rows)]
    refuse(path, "of questions are there twice", twice(question for question, _, _ in parsed))
    for question, given, kind in parsed:
        what = f"answers to question {question}"
        texts = [
            fields(number_of(path, i, what), one, answer=str)[0] for i, one in enumerate(given)
        ]
        if not texts:
            raise UserError(f"{path}: question {question} has no answers")
        found[question] = (texts, kind)
    return found


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
    """A row for each image that is asked about, from the two files of VQAv2, in either order.

    Args:
      questions: path of the one file, for messages.
      asking: its content.
      annotations: path of the other.
      answering: its content; None: there are no answers, as of a test split.

    Raises:
      UserError: one is no such file, or they are not about the same questions.
    """
    if has_answers(asking) and answering is None:
        raise UserError(f"{questions} has VQAv2's answers: give the file of the questions, too")
    if has_answers(asking):
        questions, annotations, asking, answering = annotations, questions, answering, asking
    answers = None if answering is None else answers_of(annotations, answering)
    rows = _listed(questions, asking, "questions")
    asked = [
        fields(number_of(questions, i, "rows"), row, question_id=Id, image_id=int, question=str)
        for i, row in enumerate(rows)
    ]
    refuse(questions, "of questions are there twice", twice(row[0] for row in asked))
    if answers is not None:
        known = {row[0] for row in asked}
        refuse(annotations, "of questions are answered and not asked", answers.keys() - known)
        refuse(annotations, "of questions have no answer", known - answers.keys())
    (kind,) = fields(str(questions), asking, data_subtype=str)
    kind = kind.replace("test-dev", "test")  # a part of the test split's images
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
        raise UserError(f"{path} has no `{key}`: it is no such file of VQAv2's")
    return rows
