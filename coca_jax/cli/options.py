"""What `coca caption` can be told of its captions, by option: type and meaning; other types."""

import argparse
import re

from coca_jax.errors import UserError
from coca_jax.io.paths import normalize

BEAM_OPTIONS = {
    "beams": (int, "beam search with this number of beams"),
    "n_best": (int, "how many captions of beam search (others)"),
    "length_penalty": (float, "above 0, favours long captions (1: mean log-probability)"),
}
SAMPLING_OPTIONS = {
    "samples": (int, "how many captions drawn at random (others)"),
    "temperature": (float, "of sampling"),
    "top_k": (int, "sampling among at most this number of tokens"),
    "top_p": (float, "sampling among the fewest tokens with this probability"),
    "seed": (int, "of sampling"),
}
CAPTION_OPTIONS = {
    "prompt": (str, "what captions begin with"),
    "length": (int, "most tokens, begin, prompt and end included"),
    "min_length": (int, "least tokens in front of the end, begin and prompt included"),
    "repetition_penalty": (float, "above 1, repeated tokens become less likely"),
    **BEAM_OPTIONS,
    **SAMPLING_OPTIONS,
}


class Once(argparse.Action):
    """An option that cannot be given again."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Stores the value, or refuses a second one."""
        if getattr(namespace, self.dest) is not None:
            before = getattr(namespace, self.dest)
            parser.error(f"{option_string} is given twice: {before!r} and {values!r}")
        setattr(namespace, self.dest, values)


def count(text: str) -> int:
    """A number from 1 on.

    Raises:
      ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 1 or more")
    return int(text)


def path(text: str) -> str:
    """A path or URL, with `~` and `file://` resolved.

    Raises:
      ArgumentTypeError: it is empty.
    """
    try:
        return normalize(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def part(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8).

    Raises:
      ArgumentTypeError: it is no such share.
    """
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} should be two numbers, as 2/8")
    which, parts = map(int, text.split("/"))
    if which > parts or not parts:
        raise argparse.ArgumentTypeError(f"{text!r}: the first number is at most the second")
    return which, parts
