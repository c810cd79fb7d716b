"""The accuracy of answers to questions about images, as the VQA challenge computes it.

From the rules of its evaluation (visualqa.org): an answer is right as far as three people gave it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from coca_jax.data.answer_normalization import commonest, normalized

ANSWER_TYPES = ("yes_no", "number", "other")


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """Returns how right an answer is, from 0 to 1.

    Of ten people's answers, one after the other is left out: the answer is right as far as three of
    the remaining nine gave it, a third for each; the mean of that counts. Of fewer than four
    answers, it is right if it is one of them.

    Args:
      answer: the one that is scored.
      given: people's answers.
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


def answer_type(given: Sequence[str]) -> str:
    """Returns what is asked for, by the commonest answer: `yes_no`, `number` or `other`."""
    common = normalized(commonest(given))
    if common in ("yes", "no"):
        return "yes_no"
    return "number" if re.fullmatch(r"\d+(\.\d+)?", common) else "other"


def text_only_upper_bound(questions: Iterable[tuple[str, Sequence[str]]]) -> float:
    """Returns the accuracy of always giving the best answer to a text, whatever the image.

    No model that sees only the texts does better on these examples, unless it has learned which
    examples they are.

    Args:
      questions: pairs of a text and people's answers to it, at least one pair.
    """
    by_text, count = defaultdict(list), 0
    for text, given in questions:
        by_text[text].append(given)
        count += 1
    return sum(map(_best_answer_total, by_text.values())) / count


def _best_answer_total(answers: Sequence[Sequence[str]]) -> float:
    """The highest total accuracy that a single answer reaches over these questions."""
    exact, spelled = Counter(), Counter()  # where all people agree, it is compared as it is
    for given in answers:
        if len(set(given)) == 1:
            exact[given[0]] += vqa_accuracy(given[0], given)
        else:
            spelled.update({normalized(one): vqa_accuracy(one, given) for one in given})
    candidates = {one for given in answers for one in given}
    return float(max(exact[one] + spelled[normalized(one)] for one in candidates))
