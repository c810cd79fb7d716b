"""Reads MSR-VTT's files of captions of videos."""

import os
from typing import Any

from coca_jax.data_tools.annotations.json_rows import Id, Rows, fields, number_of, reject_ids
from coca_jax.errors import UserError
from coca_jax.io.messages import duplicates


def has_videos(content: Any) -> bool:
    """Whether this is the content of one of MSR-VTT's files."""
    return isinstance(content, dict) and "videos" in content and "sentences" in content


def videos_of(path: str | os.PathLike, content: Any, split: str = "") -> dict[str, dict[str, Any]]:
    """Returns table rows by video id, each with `video`, `image_id`, `captions`, maybe `label`.

    Args:
      path: the file's path, for messages.
      content: the content of a JSON file with `videos` (`video_id`, `split` and maybe `category`,
        a number) and `sentences` (`sen_id`, `video_id` and `caption`).
      split: `train`, `validate` or `test`; empty: all.

    Raises:
      UserError: the content has another format, a duplicate id, or no captions of the split.
    """
    videos, sentences = fields(str(path), content, videos=list, sentences=list)
    rows, ids = {}, []
    for i, row in enumerate(videos):
        where = number_of(path, i, "videos")
        video, own = fields(where, row, video_id=str, split=str)
        ids.append(video)
        if split in ("", own):
            rows[video] = {"video": f"{video}.mp4", "image_id": video, "captions": []}
            if "category" in row:
                (rows[video]["label"],) = fields(where, row, category=Id)
    reject_ids(path, "of `videos` are duplicated", duplicates(ids))
    captions = [
        fields(number_of(path, i, "sentences"), row, sen_id=Id, video_id=str, caption=str)
        for i, row in enumerate(sentences)
    ]
    reject_ids(path, "of `sentences` are duplicated", duplicates(row[0] for row in captions))
    reject_ids(
        path,
        "of videos have captions but no entry in `videos`",
        {row[1] for row in captions} - {*ids},
    )
    for _, video, caption in captions:
        if video in rows:
            rows[video]["captions"].append(caption)
    rows = {video: row for video, row in rows.items() if row["captions"]}
    if not rows:
        raise UserError(f"{path} has no captions" + (f" of split {split!r}" if split else ""))
    return rows


def video_rows(path: str | os.PathLike, content: Any, split: str = "") -> Rows:
    """Returns a row for each video that has captions; `videos_of` describes the arguments."""
    return Rows(list(videos_of(path, content, split).values()), "videos")
