"""Published annotation files as tables of images or videos, one file a format.

`write_table` makes a .jsonl of them, which `format=folder` trains and evaluates on.
"""

from coca_jax.data_tools.annotations.image_captions import Annotated, captions_of
from coca_jax.data_tools.annotations.json_rows import fields, read_json, refuse, twice
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
    "refuse",
    "twice",
    "videos_of",
    "write_table",
]
