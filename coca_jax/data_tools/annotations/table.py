"""From annotation files, told apart by what they hold, to a table with a row for each image."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from coca_jax.data_tools.annotations.entailment import entailment_rows, is_entailment
from coca_jax.data_tools.annotations.image_captions import caption_rows
from coca_jax.data_tools.annotations.json_rows import Lines, Rows, read, refuse
from coca_jax.data_tools.annotations.pairs import is_pairs, pair_rows
from coca_jax.data_tools.annotations.questions import is_of_vqa, question_rows
from coca_jax.data_tools.annotations.videos import has_videos, video_rows
from coca_jax.errors import UserError
from coca_jax.io.files import is_file, write_whole
from coca_jax.io.paths import is_url, normalize

# What each format is known by.
FORMATS = {
    "COCO": "`images` and `annotations` with captions",
    "Karpathy's COCO and Flickr30K": "`images` with `sentences`",
    "VQAv2": "two files, `questions` and `annotations`; of a test split the first",
    "MSR-VTT": "`videos` and `sentences`",
    "SNLI-VE": "lines with `Flickr30K_ID` and `sentence2`",
    "NLVR2": "lines with `identifier` and `sentence`",
}
COLUMNS = ("image", "images", "video")  # of paths


class Written(NamedTuple):
    """What was written."""

    rows: int
    unit: str  # what a row is one of, such as "images"
    left_out: str  # what is not in the table, in words; empty: nothing


def write_table(
    paths: Sequence[str | os.PathLike],
    images: str | os.PathLike,
    output: str | os.PathLike,
    split: str = "",
) -> Written:
    """Writes a row for each image, pair of images or video, with all that is said of it.

    A row has the path (`image`, `images` of a pair, or `video`), `image_id`, and `captions`;
    `questions`, `question_ids`, `answers` and `answer_types`; `hypotheses`, `judgements` and
    `pair_ids`; or `statements`, `truths` and `identifiers`.

    Args:
      paths: one file of one of FORMATS, or VQAv2's two.
      images: the folder of images or videos.
      output: the .jsonl file to write.
      split: of Karpathy's or MSR-VTT's file; empty: all of it.

    Raises:
      UserError: a file is not what it should be, they do not fit together, or an image is absent.
    """
    if not str(output).endswith(".jsonl"):
        raise UserError(f"{output} should end with .jsonl, by which it is known as a table")
    if is_url(images := normalize(images)):
        raise UserError(f"{images}: the images that a table is made of must be in a local folder")
    _spare(output)
    found = _rows(paths, split)
    absent = []
    for row in found.rows:
        for column in {*COLUMNS} & {*row}:
            row[column] = _find(images, row[column], absent)
    refuse(paths[0], f"of {found.unit} are absent", dict.fromkeys(absent), "files")
    # Half a character, which JSON can hold, stays the escape that it was.
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    write_whole(output, "".join(lines).encode(errors="backslashreplace"))
    return Written(len(found.rows), found.unit, found.left_out)


def _rows(paths: Sequence[str | os.PathLike], split: str) -> Rows:
    contents = [read(path) for path in paths]
    if len(paths) == 2:
        if split:
            raise UserError(f"{paths[0]} and {paths[1]}: VQAv2's files have no split {split!r}")
        (questions, annotations), (asking, answering) = paths, contents
        return question_rows(questions, asking, annotations, answering)
    if len(paths) != 1:
        raise UserError("one file of annotations is needed, or VQAv2's two: questions, answers")
    (path,), (content,) = paths, contents
    first = next(iter(content))[1] if isinstance(content, Lines) else content
    for known, rows in ((is_entailment, entailment_rows), (is_pairs, pair_rows)):
        if known(first):
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
    raise UserError(f"{path} is of no format that is known. It has {has}. Known are {kinds}")


def _spare(output: str | os.PathLike) -> None:
    """Refuses to write over a .jsonl that is no table, such as another annotation file."""
    if is_file(output):
        row = next((row for _, row in Lines(output)), None)
        if not isinstance(row, dict) or not {*COLUMNS} & {*row}:
            raise UserError(f"{output} is there, and is no table that could be replaced")


def _find(folder: str | os.PathLike, file: Any, absent: list[pathlib.Path]) -> Any:
    """Where a file is (see `Rows`), or each of a list; what is nowhere is added to `absent`."""
    if isinstance(file, list):
        return [_find(folder, one, absent) for one in file]
    places = [file] if isinstance(file, str) else file
    paths = [pathlib.Path(folder, place).absolute() for place in places]
    path = next((path for path in paths if os.path.isfile(path)), None)  # of any length
    if path is None:
        absent.append(paths[0])
    return str(path or paths[0])
