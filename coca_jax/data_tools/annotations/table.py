"""Converts annotation files, whose format is detected, to a table with a row for each image."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from coca_jax.data_tools.annotations.entailment import entailment_rows, is_entailment
from coca_jax.data_tools.annotations.image_captions import caption_rows
from coca_jax.data_tools.annotations.json_rows import Lines, Rows, read, reject_ids
from coca_jax.data_tools.annotations.pairs import is_pairs, pair_rows
from coca_jax.data_tools.annotations.questions import is_of_vqa, question_rows
from coca_jax.data_tools.annotations.videos import has_videos, video_rows
from coca_jax.errors import UserError
from coca_jax.io.files import is_file, write_whole
from coca_jax.io.paths import is_url, normalize

# The content by which each format is detected.
FORMATS = {
    "COCO": "`images` and `annotations` with captions",
    "Karpathy's COCO and Flickr30K": "`images` with `sentences`",
    "VQAv2": "two files, `questions` and `annotations`; of a test split the first",
    "MSR-VTT": "`videos` and `sentences`",
    "SNLI-VE": "lines with `Flickr30K_ID` and `sentence2`",
    "NLVR2": "lines with `identifier` and `sentence`",
}
COLUMNS = ("image", "images", "video")  # the columns of paths


class Written(NamedTuple):
    """The size of a table that was written."""

    rows: int
    unit: str  # what the rows are, such as "images"
    left_out: str  # a phrase on what was left out; empty: nothing


def write_table(
    paths: Sequence[str | os.PathLike],
    images: str | os.PathLike,
    output: str | os.PathLike,
    split: str = "",
) -> Written:
    """Writes a row for each image, pair of images or video, with all of its annotations.

    A row has the path (`image`, `images` for a pair, or `video`), `image_id`, and `captions`;
    `questions`, `question_ids`, `answers` and `answer_types`; `hypotheses`, `judgements` and
    `pair_ids`; or `statements`, `truths` and `identifiers`.

    Args:
      paths: one file in one of FORMATS, or VQAv2's two.
      images: the folder of images or videos.
      output: the .jsonl file to write.
      split: a split of Karpathy's or MSR-VTT's file; empty: all.

    Returns:
      The size of the table.

    Raises:
      UserError: a file has an unknown format, two files do not match, or an image is missing.
    """
    if not str(output).endswith(".jsonl"):
        raise UserError(f"{output} should end with .jsonl, which marks it as a table")
    if is_url(images := normalize(images)):
        raise UserError(f"{images}: the images of a table must be in a local folder")
    _require_replaceable(output)
    table = _rows(paths, split)
    absent = []
    for row in table.rows:
        for column in {*COLUMNS} & {*row}:
            row[column] = _find(images, row[column], absent)
    reject_ids(paths[0], f"of {table.unit} are missing", dict.fromkeys(absent), "files")
    # JSON can contain half of a surrogate pair, which stays an escape.
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.rows)
    write_whole(output, "".join(lines).encode(errors="backslashreplace"))
    return Written(len(table.rows), table.unit, table.left_out)


def _rows(paths: Sequence[str | os.PathLike], split: str) -> Rows:
    contents = [read(path) for path in paths]
    if len(paths) == 2:
        if split:
            raise UserError(f"{paths[0]} and {paths[1]}: VQAv2's files have no split {split!r}")
        (questions, annotations), (asking, answering) = paths, contents
        return question_rows(questions, asking, annotations, answering)
    if len(paths) != 1:
        raise UserError("give one file of annotations, or VQAv2's two (questions and answers)")
    (path,), (content,) = paths, contents
    first = next(iter(content))[1] if isinstance(content, Lines) else content
    for matches, rows in ((is_entailment, entailment_rows), (is_pairs, pair_rows)):
        if matches(first):
            if split:
                raise UserError(f"{path} is one whole split: it has no split {split!r}")
            return rows(path)
    if has_videos(content):
        return video_rows(path, content, split)
    if is_of_vqa(content):
        if split:
            raise UserError(f"{path} is one whole split: it has no split {split!r}")
        return question_rows(path, content)
    if isinstance(content, dict) and "images" in content:
        return caption_rows(path, content, split)
    kinds = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    has = ", ".join(first) if isinstance(first, dict) else f"a {type(first).__name__}"
    raise UserError(f"{path} has an unknown format. It has {has}. Known formats: {kinds}")


def _require_replaceable(output: str | os.PathLike) -> None:
    """Raises if a .jsonl exists that is not a table, such as another annotation file."""
    if is_file(output):
        row = next((row for _, row in Lines(output)), None)
        if not isinstance(row, dict) or not {*COLUMNS} & {*row}:
            raise UserError(f"{output} exists and is not a table, so it is not replaced")


def _find(folder: str | os.PathLike, file: Any, absent: list[pathlib.Path]) -> Any:
    """The path of a file of `Rows`, or a list of paths; a missing file is added to `absent`."""
    if isinstance(file, list):
        return [_find(folder, item, absent) for item in file]
    names = [file] if isinstance(file, str) else file
    paths = [pathlib.Path(folder, name).absolute() for name in names]
    # os.path.isfile is False for a path that is too long; Path.is_file raises.
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        absent.append(paths[0])
    return str(path or paths[0])
