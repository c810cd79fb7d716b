"""Answers to questions about images, as the VQA challenge scores them.

From the rules of its evaluation (visualqa.org): an answer is right as far as three people gave it.
"""

import re
from collections.abc import Sequence

from coca_jax.data.answer_normalization import commonest, normalized

KINDS = ("yes_no", "number", "other")


def accuracy(answer: str, given: Sequence[str]) -> float:
    """How right an answer is, from 0 to 1.

    Of ten people's answers, one after the other is left out: the answer is right as far as three of
    the others gave it, a third for each; the mean of that counts. Of fewer than four answers, it is
    right if it is one of them.

    Args:
      answer: to be judged.
      given: by people.
    """
    if len(set(given)) > 1:  # if all agree, they are compared as they are
        answer, given = normalized(answer), [normalized(one) for one in given]
    else:
        answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if len(given) < 4:
        return float(answer in given)
    same = sum(one == answer for one in given)
    shares = [min(1.0, (same - (one == answer)) / 3) for one in given]
    return sum(shares) / len(shares)


def kind(given: Sequence[str]) -> str:
    """What is asked for, by the commonest answer: `yes_no`, `number` or `other`."""
    common = normalized(commonest(given))
    if common in ("yes", "no"):
        return "yes_no"
    return "number" if re.fullmatch(r"\d+(\.\d+)?", common) else "other"
