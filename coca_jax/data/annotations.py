"""Published annotations as tables of images: COCO's and Karpathy's captions, VQAv2's questions.

`write_table` makes a .jsonl of them, which `format=folder` trains and evaluates on.
"""

import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coca_jax.data.files import write_whole
from coca_jax.errors import UserError

MOST_NAMED = 5  # ids in a message


class Annotated(NamedTuple):
    """An image of a file of captions."""

    file: str  # its path within the folder of images; empty if the file does not say
    captions: list[str]


def write_table(
    paths: Sequence[str | os.PathLike],
    images: str | os.PathLike,
    output: str | os.PathLike,
    split: str = "",
) -> int:
    """Writes a row for each image: its path, captions or questions and answers, and `image_id`.

    Args:
      paths: a file of captions (see `captions_of`), or VQAv2's files of questions and of answers.
      images: the folder of images.
      output: the .jsonl file to write.
      split: of Karpathy's file.

    Returns:
      The number of images.

    Raises:
      UserError: a file is not what it should be, they do not fit together, or an image is absent.
    """
    if not str(output).endswith(".jsonl"):
        raise UserError(f"{output} should end with .jsonl, by which it is known as a table")
    if len(paths) == 1:
        found = captions_of(paths[0], read_json(paths[0]), split)
        rows = [
            {"image": entry.file, "image_id": image, "captions": entry.captions}
            for image, entry in found.items()
        ]
    elif len(paths) == 2 and not split:
        rows = _questions_by_image(*paths)
    else:
        raise UserError("one file of captions is needed, or VQAv2's two: of questions, of answers")
    absent = []
    for row in rows:
        path = pathlib.Path(images, row["image"]).absolute()
        row["image"] = str(path)
        if not path.is_file():
            absent.append(path)
    refuse(paths[0], "name images that are absent", absent, "rows")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(output, "".join(lines).encode())
    return len(rows)


def captions_of(path: str | os.PathLike, content: Any, split: str = "") -> dict[Any, Annotated]:
    """Captions of each image, by its id.

    Args:
      path: of the file, for messages.
      content: of a JSON file as COCO's own (`images`, and `annotations` with `id`, `image_id` and
        `caption`), or as Karpathy's of COCO and Flickr30K (`images` with `sentences`).
      split: of Karpathy's file, such as `test`; empty: all of it. `train` has `restval`, too.

    Raises:
      UserError: it is neither, an id is there twice, or no image is left.
    """
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{path} has no `images`: it is no file of COCO's or Karpathy's")
    if "annotations" in content:
        if split:
            raise UserError(f"{path} is a file of COCO's own, which has no split {split!r}")
        found = _of_coco(path, images, content["annotations"])
    else:
        found = _of_karpathy(path, images, split)
    if not found:
        raise UserError(f"{path} has no captions" + (f" of split {split!r}" if split else ""))
    return found


def answers_of(path: str | os.PathLike, content: Any) -> dict[Any, tuple[list[str], str]]:
    """What people answered to each question of VQAv2, and the type of the answer, by question.

    Args:
      path: of the file, for messages.
      content: of a JSON file with `annotations`, each with `question_id`, `answers` (each with
        `answer`) and `answer_type`.

    Raises:
      UserError: it is no such file, or has a question twice.
    """
    rows = _listed(path, content, "annotations")
    found = [
        fields(path, i, row, "question_id", "answers", "answer_type") for i, row in enumerate(rows)
    ]
    refuse(path, "of questions are there twice", twice(question for question, _, _ in found))
    return {
        question: (
            [fields(path, i, one, "answer", of="answers")[0] for i, one in enumerate(given)],
            kind,
        )
        for question, given, kind in found
    }


def has_answers(content: Any) -> bool:
    """Whether this is the content of VQAv2's file of answers."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    return isinstance(rows, list) and bool(rows) and "question_id" in rows[0]


def _questions_by_image(questions: Any, annotations: Any) -> list[dict[str, Any]]:
    """Rows of a table, from the two files of VQAv2, in either order."""
    asking, answering = read_json(questions), read_json(annotations)
    if has_answers(asking):
        questions, annotations, asking, answering = annotations, questions, answering, asking
    answers, rows = answers_of(annotations, answering), _listed(questions, asking, "questions")
    kind = asking.get("data_subtype", "")
    asked = [
        fields(questions, i, r, "question_id", "image_id", "question") for i, r in enumerate(rows)
    ]
    refuse(questions, "of questions are there twice", twice(row[0] for row in asked))
    known = {row[0] for row in asked}
    refuse(annotations, "of questions are answered and not asked", answers.keys() - known)
    refuse(annotations, "of questions have no answer", known - answers.keys())
    by_image: dict[Any, dict[str, Any]] = {}
    for question, image, text in asked:
        empty = {
            "image": f"COCO_{kind}_{image:012}.jpg",
            "image_id": image,
            "questions": [],
            "answers": [],
            "question_ids": [],
        }
        row = by_image.setdefault(image, empty)
        row["questions"].append(text)
        row["answers"].append(answers[question][0])
        row["question_ids"].append(question)
    return list(by_image.values())


def _of_coco(path: Any, images: Sequence[Any], rows: Sequence[Any]) -> dict[Any, Annotated]:
    known = [fields(path, i, row, "id", of="images")[0] for i, row in enumerate(images)]
    refuse(path, "of `images` are there twice", twice(known))
    annotations = [
        fields(path, i, row, "id", "image_id", "caption", of="annotations")
        for i, row in enumerate(rows)
    ]
    refuse(path, "of `annotations` are there twice", twice(row[0] for row in annotations))
    unlisted = {row[1] for row in annotations} - set(known)
    refuse(path, "of images are annotated and not listed", unlisted)
    names = {image: row.get("file_name", "") for image, row in zip(known, images, strict=True)}
    found: dict[Any, Annotated] = {}
    for _, image, caption in annotations:
        found.setdefault(image, Annotated(names[image], [])).captions.append(caption)
    return found


def _of_karpathy(path: Any, images: Sequence[Any], split: str) -> dict[Any, Annotated]:
    # Flickr30K has no ids of its own.
    key = "cocoid" if all("cocoid" in row for row in images) else "imgid"
    ids = [fields(path, i, row, key, of="images")[0] for i, row in enumerate(images)]
    refuse(path, "of `images` are there twice", twice(ids))
    found = {}
    for i, (image, row) in enumerate(zip(ids, images, strict=True)):
        of, sentences = fields(path, i, row, "split", "sentences", of="images")
        if split in ("", of) or (split == "train" and of == "restval"):
            file = os.path.join(row.get("filepath", ""), row.get("filename", ""))
            captions = [
                fields(path, n, sentence, "raw", of=f"sentences of image {image}")[0]
                for n, sentence in enumerate(sentences)
            ]
            found[image] = Annotated(file, captions)
    return found


def _listed(path: Any, content: Any, key: str) -> list[Any]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} has no `{key}`: it is no such file of VQAv2's")
    return rows


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def fields(path: Any, place: int, row: Any, *names: str, of: str = "rows") -> list[Any]:
    """What a row of a file has under these names.

    Raises:
      UserError: it lacks one.
    """
    if not isinstance(row, dict) or any(name not in row for name in names):
        has = ", ".join(row) if isinstance(row, dict) else repr(row)
        raise UserError(f"{path}: number {place} of {of} needs {', '.join(names)}; it has {has}")
    return [row[name] for name in names]


def twice(ids: Iterable[Any]) -> list[Any]:
    """Those that are there more than once."""
    return [one for one, count in Counter(ids).items() if count > 1]


def refuse(path: Any, wrong: str, ids: Iterable[Any], what: str = "ids") -> None:
    """Refuses a file that has ids that it should not have.

    Raises:
      UserError: there are any; names the first of them.
    """
    ids = sorted(ids, key=str)
    if ids:
        named = ", ".join(map(str, ids[:MOST_NAMED])) + (", ..." if ids[MOST_NAMED:] else "")
        raise UserError(f"{path}: {len(ids):,} {what} {wrong}: {named}")
