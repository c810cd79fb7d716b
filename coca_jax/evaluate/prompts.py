"""Prompt templates: what is said of an image of a class, with {} where the class is named."""

import itertools
import os
from collections.abc import Sequence

from coca_jax.errors import UserError
from coca_jax.io.files import read_lines
from coca_jax.io.paths import join, normalize

DEFAULT = ("a {}", "a photo of a {}.")
NEXT_TO_DATA = "zeroshot_classification_templates.txt"  # as CLIP_benchmark's data sets have it

# What CLIP was prompted with for ImageNet (Radford et al. 2021, arXiv 2103.00020), 80 in all: each
# of these with "a" and with "the" before the class, ...
_WITH_ARTICLES = """
a bad photo of @ {}.
a bright photo of @ {}.
a blurry photo of @ {}.
a black and white photo of @ {}.
a close-up photo of @ {}.
a cropped photo of @ {}.
a dark photo of @ {}.
a good photo of @ {}.
a jpeg corrupted photo of @ {}.
a low resolution photo of @ {}.
a photo of @ {}.
a photo of @ clean {}.
a photo of @ cool {}.
a photo of @ dirty {}.
a photo of @ hard to see {}.
a photo of @ large {}.
a photo of @ nice {}.
a photo of @ small {}.
a photo of @ weird {}.
a pixelated photo of @ {}.
a doodle of @ {}.
a drawing of @ {}.
a painting of @ {}.
a rendering of @ {}.
a rendition of @ {}.
a sculpture of @ {}.
a sketch of @ {}.
a tattoo of @ {}.
art of @ {}.
graffiti of @ {}.
itap of @ {}.
@ cartoon {}.
@ embroidered {}.
@ origami {}.
@ plastic {}.
@ plushie {}.
@ toy {}.
@ {} in a video game.
"""
# ... and four that have a word of their own there.
_OTHERS = ("a photo of many {}.", "a photo of my {}.", "a photo of one {}.", "itap of my {}.")
_LINES = _WITH_ARTICLES.split("\n")[1:-1]
SETS = {
    "imagenet": tuple(
        line.replace("@", article) for line, article in itertools.product(_LINES, ("a", "the"))
    )
    + _OTHERS,
}


def find_templates(given: str | Sequence[str] | None, data: str = "") -> tuple[str, ...]:
    """The templates that an evaluation asks for.

    Args:
      given: templates; or the name of a set in SETS, or of a file with one a line, where the class
        may also be called {c}; None: the file of them next to the data, or DEFAULT.
      data: the path of the data set, which may be a local folder.

    Raises:
      UserError: there is no such set or file, or a template does not name the class.
    """
    if given is None:
        default_file = join(normalize(data), NEXT_TO_DATA) if data else ""
        if not os.path.isfile(default_file):
            return DEFAULT
        given = default_file
    if not isinstance(given, str):
        return _checked(given, "templates")
    if given in SETS:
        return SETS[given]
    return _checked(_lines(given), given)


def _lines(path: str) -> list[str]:
    try:
        lines = read_lines(path, skip_blank=True)
    except UserError as error:
        names = ", ".join(SETS)
        raise UserError(
            f"templates: {error}; it should be a named set ({names}), a file of templates, or "
            "templates, written as ('a {}',)"
        ) from error
    return [line.replace("{c}", "{}") for line in lines]


def _checked(templates: Sequence[str], where: str) -> tuple[str, ...]:
    if not templates:
        raise UserError(f"{where} holds no template, such as 'a photo of a {{}}.'")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"{where}: {template!r} has no {{}} for the class name")
    return tuple(templates)
