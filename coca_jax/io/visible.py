"""Texts of models and of other people, as they are shown to people."""

import re

# Controls but for tab and line feed, what turns the direction of a line, halves of surrogate pairs
# (bytes of file names that are not UTF-8, too), and what no text may hold.
_UNSHOWN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """The text with U+FFFD for each character that a page or a terminal would not show, or obey."""
    return _UNSHOWN.sub("\ufffd", text)
