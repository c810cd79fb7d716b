"""What `coca caption` can be told of its captions, by option: type and meaning; other types."""

import argparse
import re

BEAM_OPTIONS = {
    "beams": (int, "beam search, with so many texts side by side"),
    "n_best": (int, "so many captions of beam search (others)"),
    "length_penalty": (float, "above 0, favours long captions (1: mean log-probability)"),
}
SAMPLING_OPTIONS = {
    "samples": (int, "so many captions drawn at random (others)"),
    "temperature": (float, "of sampling"),
    "top_k": (int, "sampling among so many tokens only"),
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


def count(text: str) -> int:
    """A number from 1 on.

    Raises:
      ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 1 or more")
    return int(text)


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
