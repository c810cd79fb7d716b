"""Answers to questions about images, normalized as the VQA challenge does."""

import re
from collections import Counter
from collections.abc import Sequence

NUMBERS = "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905
SPELLED = {"none": "0"} | {word: str(i) for i, word in enumerate(NUMBERS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # as published; the look-behind is misspelled
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
# Words that get their apostrophe back if it is missing.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll let's ma'am
    mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't
    she'd've should've shouldn't shouldn't've somebody'd somebody'll somebody's someone'd
    someone'll someone's something'd something'll that's there'd there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll
    you're you've
    """.split()  # noqa: SIM905
CONTRACTIONS = {
    partial: word
    for word in CONTRACTED
    for partial in {
        word.replace("'", ""),
        *(word[:i] + word[i + 1 :] for i, c in enumerate(word) if c == "'"),
    }
}


def without_ends(answer: str) -> str:
    """The answer without white space around it, and on one line."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalized(answer: str) -> str:
    """The answer without punctuation, articles and capitals, with numbers as digits."""
    answer = without_ends(answer)
    text, joined = answer, bool(DIGITS_WITH_COMMA.search(answer))
    for mark in PUNCTUATION:
        next_to_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if next_to_space or joined else " ")
    words = [SPELLED.get(word, word) for word in PERIOD.sub("", text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def commonest(answers: Sequence[str]) -> str:
    """The answer that most people gave; of equally frequent ones, the first."""
    return Counter(answers).most_common(1)[0][0]
