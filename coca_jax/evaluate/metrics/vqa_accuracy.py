"""The accuracy of answers to questions about images, as the VQA challenge computes it.

From the rules of its evaluation (visualqa.org): an answer is right as far as three people gave it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from coca_jax.data.answer_normalization import commonest, normalized, without_ends

ANSWER_TYPES = ("yes_no", "number", "other")


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Returns how right an answer is, from 0 to 1.

    Of ten people's answers, one after the other is left out: the answer is right as far as three of
    the remaining nine gave it, a third for each; the mean of that counts. Spelling is normalized
    unless all agree: then only white space around the answers is removed, and "Yes" is wrong where
    ten people said "yes". Of fewer than four answers, which the challenge does not have, it is
    right if it is one of them, in any spelling.

    Args:
      answer: the one that is scored.
      references: people's answers.
    """
    answer, *references = map(without_ends, (answer, *references))
    if not _as_they_are(references):
        answer, *references = map(normalized, (answer, *references))
    if len(references) < 4:
        return float(answer in references)
    same = sum(one == answer for one in references)
    shares = [min(1.0, (same - (one == answer)) / 3) for one in references]
    return sum(shares) / len(shares)


def _as_they_are(references: Sequence[str]) -> bool:
    """Whether answers are compared without normalization: by the rules, if all people agree."""
    return len(references) >= 4 and len(set(references)) == 1


def answer_type(answers: Sequence[str]) -> str:
    """Returns what is asked for, by the commonest answer: `yes_no`, `number` or `other`."""
    common = normalized(commonest(answers))
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
    for text, answers in questions:
        by_text[text].append(answers)
        count += 1
    return sum(map(_best_answer_total, by_text.values())) / count


def _best_answer_total(answers: Sequence[Sequence[str]]) -> float:
    """The highest total accuracy that a single answer reaches over these questions."""
    exact, spelled = Counter(), Counter()  # where all people agree, it is compared as it is
    cleaned = [[without_ends(one) for one in references] for references in answers]
    for references in cleaned:
        if _as_they_are(references):
            exact[references[0]] += vqa_accuracy(references[0], references)
        else:
            spelled.update({normalized(one): vqa_accuracy(one, references) for one in references})
    candidates = {one for references in cleaned for one in references}
    return float(max(exact[one] + spelled[normalized(one)] for one in candidates))
