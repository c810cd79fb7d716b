"""The answers that are common in tables of questions, as classes for a head."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from coca_jax.data.answer_normalization import commonest, normalized
from coca_jax.data.sources.base import is_text
from coca_jax.data_tools.annotations.json_rows import Lines, fields
from coca_jax.errors import UserError
from coca_jax.io.files import write_whole


class CommonAnswers(NamedTuple):
    """The answers that were written, and what they are worth."""

    answers: list[str]  # the commonest first
    questions: int  # of which so many were read
    answered: int  # and so many have one of these answers


def write_answers(
    tables: Iterable[str | os.PathLike], output: str | os.PathLike, min_count: int = 9
) -> CommonAnswers:
    """Writes the commonest answers, one a line, for a classifier to choose among.

    Each question counts for the answer that most people gave it, `normalized`. Of VQAv2's training
    and validation questions, those with at least 9 are usual as the classes.

    Args:
      tables: .jsonl files with the column `answers`, as `write_table` makes them of VQAv2's.
      output: the text file to write.
      min_count: questions that an answer must have.

    Raises:
      UserError: a table is no such file, or no answer has so many questions.
    """
    if str(output).endswith(".jsonl"):
        raise UserError(f"{output} is to be written, and has the name of a table: give a .txt")
    counts = Counter(answer for table in tables for answer in _answers(table))
    common = [answer for answer, count in counts.items() if count >= min_count and answer]
    common.sort(key=lambda answer: (-counts[answer], answer))
    if not common:
        raise UserError(f"of {counts.total():,} questions, no {min_count:,} have the same answer")
    write_whole(output, "".join(f"{answer}\n" for answer in common).encode())
    return CommonAnswers(common, counts.total(), sum(counts[answer] for answer in common))


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
