"""Readers of published annotation files of images and videos, one module per format.

`write_table` converts such files to a .jsonl table, which `format=folder` trains and evaluates on.
"""

from coca_jax.data_tools.annotations.image_captions import Annotated, captions_of
from coca_jax.data_tools.annotations.json_rows import fields, read_json, reject_ids
from coca_jax.data_tools.annotations.questions import answers_of, has_answers
from coca_jax.data_tools.annotations.table import Written, write_table
from coca_jax.data_tools.annotations.videos import has_videos, videos_of

__all__ = [
    "Annotated",
    "Written",
    "answers_of",
    "captions_of",
    "fields",
    "has_answers",
    "has_videos",
    "read_json",
    "reject_ids",
    "videos_of",
    "write_table",
]
