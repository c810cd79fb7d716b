"""Answers to questions about images: as the VQA challenge spells them, and which are common."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from coca_jax.data.annotations.files import Lines, fields
from coca_jax.data.sources.base import is_text
from coca_jax.errors import UserError
from coca_jax.io.files import write_whole

NUMBERS = "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905
SPELLED = {"none": "0"} | {word: str(i) for i, word in enumerate(NUMBERS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # as published: the look-behind is misspelt
DIGITS_WITH_COMMA = re.compile(r"\d,\d")
# Written without their apostrophe, these get it back.
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


class CommonAnswers(NamedTuple):
    """The answers that were written, and what they are worth."""

    answers: list[str]  # the commonest first
    questions: int  # of which so many were read
    answered: int  # and so many have one of these answers


def write_answers(
    tables: Iterable[str | os.PathLike], output: str | os.PathLike, least: int = 9
) -> CommonAnswers:
    """Writes the commonest answers, one a line, for a classifier to choose among.

    Each question counts for the answer that most people gave it, `normalized`. Of VQAv2's training
    and validation questions, those with at least 9 are usual as the classes.

    Args:
      tables: .jsonl files with the column `answers`, as `write_table` makes them of VQAv2's.
      output: the text file to write.
      least: questions that an answer must have.

    Raises:
      UserError: a table is no such file, or no answer has so many questions.
    """
    if str(output).endswith(".jsonl"):
        raise UserError(f"{output} is to be written, and has the name of a table: give a .txt")
    counts = Counter(answer for table in tables for answer in _answers(table))
    common = [answer for answer, count in counts.items() if count >= least and answer]
    common.sort(key=lambda answer: (-counts[answer], answer))
    if not common:
        raise UserError(f"of {counts.total():,} questions, no {least:,} have the same answer")
    write_whole(output, "".join(f"{answer}\n" for answer in common).encode())
    return CommonAnswers(common, counts.total(), sum(counts[answer] for answer in common))


def normalized(answer: str) -> str:
    """The answer without punctuation, articles and capitals, numbers in digits."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    text, joined = answer, bool(DIGITS_WITH_COMMA.search(answer))
    for mark in PUNCTUATION:
        beside_a_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_a_space or joined else " ")
    words = [SPELLED.get(word, word) for word in PERIOD.sub("", text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def commonest(given: Sequence[str]) -> str:
    """The answer that most gave; of several, the first."""
    return Counter(given).most_common(1)[0][0]


def _answers(table: str | os.PathLike) -> Iterable[str]:
    """The answer to each question of a table."""
    for number, row in Lines(table):
        where = f"{table}:{number}"
        for given in fields(where, row, answers=list)[0]:
            texts = [given] if isinstance(given, str) else given
            if not isinstance(texts, list) or not texts or not all(map(_is_answer, texts)):
                raise UserError(f"{where}: an answer is {given!r}; it should be a text or several")
            yield normalized(commonest(texts))


def _is_answer(text: Any) -> bool:
    """Whether it can be a line of a list."""
    return isinstance(text, str) and is_text(text) and "\0" not in text
