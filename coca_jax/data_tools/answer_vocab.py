"""Builds the answer vocabulary of a classification head from tables of questions."""

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
    """The answers that were written, and how many questions they cover."""

    answers: list[str]  # the most common first
    questions: int  # the number of questions that were read
    answered: int  # the number of those that have one of these answers


def write_answers(
    tables: Iterable[str | os.PathLike], output: str | os.PathLike, min_count: int = 9
) -> CommonAnswers:
    """Writes the most common answers, one per line, as the classes of a classifier.

    Each question counts for the answer that most people gave, `normalized`. The usual classes for
    VQAv2 are the answers to at least 9 of its training and validation questions.

    Args:
      tables: .jsonl files with the column `answers`, such as `write_table` makes from VQAv2.
      output: the text file to write.
      min_count: the fewest questions that an answer must have.

    Returns:
      The answers and their counts.

    Raises:
      UserError: a table cannot be read or lacks answers, or no answer has `min_count` questions.
    """
    if str(output).endswith(".jsonl"):
        raise UserError(f"{output} is the file to write, but is named like a table: give a .txt")
    counts = Counter(answer for table in tables for answer in _answers(table))
    common = [answer for answer, count in counts.items() if count >= min_count and answer]
    common.sort(key=lambda answer: (-counts[answer], answer))
    if not common:
        raise UserError(
            f"no answer is given to {min_count:,} or more of the {counts.total():,} questions"
        )
    write_whole(output, "".join(f"{answer}\n" for answer in common).encode())
    return CommonAnswers(common, counts.total(), sum(counts[answer] for answer in common))


def _answers(table: str | os.PathLike) -> Iterable[str]:
    """The answer to each question of a table."""
    for number, row in Lines(table):
        where = f"{table}:{number}"
        for answer in fields(where, row, answers=list)[0]:
            texts = [answer] if isinstance(answer, str) else answer
            if not isinstance(texts, list) or not texts or not all(map(_is_answer, texts)):
                raise UserError(
                    f"{where}: an answer is {answer!r}; it should be a text or a list of texts"
                )
            yield normalized(commonest(texts))


def _is_answer(text: Any) -> bool:
    """Whether a value can be a line of the vocabulary file."""
    return isinstance(text, str) and is_text(text) and "\0" not in text
