"""Captions of videos: MSR-VTT's files."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, refuse, twice
from coca_jax.errors import UserError


def has_videos(content: Any) -> bool:
    """Whether this is the content of a file of MSR-VTT's."""
    return isinstance(content, dict) and "videos" in content and "sentences" in content


def videos_of(path: str | os.PathLike, content: Any, split: str = "") -> dict[str, dict[str, Any]]:
    """Rows of a table by the id of the video: `video`, `image_id`, `captions` and maybe `label`.

    Args:
      path: of the file, for messages.
      content: of a JSON file with `videos` (`video_id`, `split` and maybe `category`, a number)
        and `sentences` (`sen_id`, `video_id` and `caption`).
      split: `train`, `validate` or `test`; empty: all.

    Raises:
      UserError: it is no such file, an id is there twice, or no captions are left.
    """
    videos, sentences = fields(str(path), content, videos=list, sentences=list)
    found, known = {}, []
    for i, row in enumerate(videos):
        where = number_of(path, i, "videos")
        video, of = fields(where, row, video_id=str, split=str)
        known.append(video)
        if split in ("", of):
            found[video] = {"video": f"{video}.mp4", "image_id": video, "captions": []}
            if "category" in row:
                (found[video]["label"],) = fields(where, row, category=Id)
    refuse(path, "of `videos` are there twice", twice(known))
    captions = [
        fields(number_of(path, i, "sentences"), row, sen_id=Id, video_id=str, caption=str)
        for i, row in enumerate(sentences)
    ]
    refuse(path, "of `sentences` are there twice", twice(row[0] for row in captions))
    refuse(
        path,
        "of videos have captions and no entry in `videos`",
        {r[1] for r in captions} - {*known},
    )
    for _, video, caption in captions:
        if video in found:
            found[video]["captions"].append(caption)
    found = {video: row for video, row in found.items() if row["captions"]}
    if not found:
        raise UserError(f"{path} has no captions" + (f" of split {split!r}" if split else ""))
    return found


def video_rows(path: str | os.PathLike, content: Any, split: str = "") -> Rows:
    """A row for each video that has captions; see `videos_of`."""
    return Rows(list(videos_of(path, content, split).values()), "videos")
