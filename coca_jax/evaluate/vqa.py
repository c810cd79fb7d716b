"""Questions about images, answered by the decoder, written or chosen, or by a head's classes."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from coca_jax.data.captions import listed
from coca_jax.data.sources.base import is_text
from coca_jax.errors import UserError
from coca_jax.evaluate import answers
from coca_jax.evaluate.embed import thumbnail
from coca_jax.evaluate.evenly_spaced import EvenlySpaced
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.undefined import Undefined
from coca_jax.io.messages import counted

ROWS = 256  # questions at a time
SAMPLES = 24
QUESTIONS = ("questions", "answers")  # the fields where nobody names others


class Question(NamedTuple):
    """A question about an image and the answers that people gave."""

    image: Any  # uint8 [h, w, 3], or of several pictures
    text: str
    given: tuple[str, ...]  # none where nobody has answered, as in a test split
    number: Any = None  # the data set's id of it
    kind: str = ""  # of its answers, as the data set has it


def evaluate(
    handle: Handle,
    batches: Iterable[dict[str, Any]],
    by: str = "generation",
    candidates: Sequence[str] = (),
    questions: Sequence[str] = QUESTIONS,
    classes: Sequence[str] = (),
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Asks every question of every image.

    Args:
      handle: the model.
      batches: of images, whose `fields` have questions and answers: for each question one answer,
        or the list of those that people gave. A field of answers may be absent. Beside
        `questions` there may be `question_ids` and `answer_types`, as many.
      by: "generation"; "candidates": the answer that is most probable behind the question; or
        "head": one of its classes.
      candidates: to choose from (`all_answers`).
      questions: names of the two fields.
      classes: names of the head's.
      **options: how answers are generated; see `LoadedModel.caption`.

    Returns:
      Of the questions that people answered, the accuracy (`answers.accuracy`), also by kind of
      answer, and what the best guess would reach that knows how often each answer is right for a
      question, but sees no image (`blind`); and how many others there are (`unanswered`). For the
      report, some questions with their answers; and `files`: the answers to all questions that have
      an id, as the VQA challenge takes them (`results`).

    Raises:
      UserError: there are no questions, or not as many answers, or one that is no text; or an id
        is that of two questions, or of one with two lists of answers.
    """
    asked, scores, results, drawn, bad = [], [], [], EvenlySpaced(SAMPLES), 0
    once = _Once()
    for batch in batches:
        bad += batch.get("bad_image", 0)
        for rows in in_parts(list(filter(once, questions_of(batch, *questions)))):
            if by == "head":
                found = [classes[i] for i in answer_by_head(handle, rows).argmax(axis=1)]
            elif by == "candidates":
                found = _chosen(handle, rows, candidates)
            else:
                found = _generated(handle, rows, options)
            pairs = list(zip(rows, found, strict=True))
            results += [{"question_id": q.number, "answer": a} for q, a in pairs]
            pairs = [(question, answer) for question, answer in pairs if question.given]
            right = [answers.accuracy(answer, question.given) for question, answer in pairs]
            asked += keep([q for q, _ in pairs], [a for _, a in pairs], right, drawn)
            scores += right
    if once.repeated:
        repeated = counted(once.repeated, "questions are repeated")
        print(f"warning: {repeated}, and asked once", file=sys.stderr)
    if not results:
        raise UserError(f"vqa needs questions, and no example has the field {questions[0]}")
    numbered = [row for row in results if row["question_id"] is not None]
    if not asked and not numbered:
        raise UserError(
            f"no example has the field {questions[1]}, nor question_ids to answer under: nothing "
            "would be left of these answers"
        )
    metrics = _metrics(asked, scores) | {"count": float(len(asked))}
    if len(asked) < len(results):
        metrics["unanswered"] = float(len(results) - len(asked))
    metrics["bad_images"] = float(bad)
    files = {"results": numbered} if numbered else {}
    return metrics, {"questions": drawn.chosen(), "files": files}


class _Once:
    """Lets the questions of an id pass once: result files have no id twice."""

    def __init__(self):
        self._known: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.repeated = 0

    def __call__(self, question: Question) -> bool:
        if question.number is None:
            return True
        own = (question.text, question.given)
        known = self._known.setdefault(str(question.number), own)
        if known != own:
            raise UserError(
                f"question {question.number} is there twice: {known[0]!r} with the answers "
                f"{[*known[1]]}, and {own[0]!r} with {[*own[1]]}; all answers to a question "
                "belong into one record"
            )
        self.repeated += known is not own
        return known is own


def all_answers(batches: Iterable[dict[str, Any]], questions: Sequence[str]) -> list[str]:
    """The commonest answer to each question, once, in order: candidates for these examples.

    Args:
      batches: as of `evaluate`.
      questions: names of the two fields.

    Raises:
      UserError: there are none.
    """
    given = (q.given for batch in batches for q in questions_of(batch, *questions))
    if not (found := sorted({answers.commonest(some) for some in given if some})):
        raise UserError("no question has an answer that could be a candidate: set `candidates`")
    return found


def in_parts(rows: Sequence[Question]) -> Iterator[Sequence[Question]]:
    """As many at a time as have ROWS pictures."""
    size = max(1, ROWS // (len(rows[0].image) if rows and rows[0].image.ndim == 4 else 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def keep(
    rows: Sequence[Question], found: Sequence[str], scores: Sequence[float], drawn: EvenlySpaced
) -> list[Question]:
    """The questions without their images, of which some are offered to the report.

    Args:
      rows: what was asked.
      found: the answers.
      scores: how right each is, from 0 to 1.
      drawn: takes what is drawn of them.
    """
    for question, answer, score in zip(rows, found, scores, strict=True):
        drawn.offer(
            lambda question=question, answer=answer, score=score: {
                "image": thumbnail(question.image, 128),
                "question": question.text,
                "answer": answer,
                "given": answers.commonest(question.given),
                "accuracy": score,
            }
        )
    return [question._replace(image=None) for question in rows]


def blind_accuracy(questions: Sequence[Question]) -> float:
    """Accuracy of the answer to each text that is right most often among these very examples.

    No text-only model does better on them, but by learning which examples they are.
    """
    by_text = defaultdict(list)
    for question in questions:
        by_text[question.text].append(question.given)
    return sum(map(_best_guess, by_text.values())) / len(questions)


def _best_guess(given: Sequence[Sequence[str]]) -> float:
    """How often, in sum, the one answer is right that is right most often."""
    exact, spelled = Counter(), Counter()  # where all people agree, it is compared as it is
    for some in given:
        if len(set(some)) == 1:
            exact[some[0]] += answers.accuracy(some[0], some)
        else:
            worth = {answers.normalized(one): answers.accuracy(one, some) for one in some}
            spelled.update(worth)
    guesses = {one for some in given for one in some}
    return float(max(exact[guess] + spelled[answers.normalized(guess)] for guess in guesses))


def questions_of(batch: dict[str, Any], asked: str, answered: str) -> Iterable[Question]:
    """The questions about a batch's images.

    Args:
      batch: with `fields` of each image.
      asked: name of the field with the questions.
      answered: name of the field with the answers to each; where it is absent, they have none.

    Raises:
      UserError: they are not as many.
    """
    for image, fields in zip(batch["image"], batch["fields"], strict=True):
        texts = [required_text(asked, text) for text in listed(fields.get(asked))]
        columns = []
        for name, empty in ((answered, None), ("question_ids", None), ("answer_types", "")):
            # A record may have other texts, too, which the ids are not of.
            absent = fields.get(name) is None or (name != answered and asked != QUESTIONS[0])
            values = [empty] * len(texts) if absent else listed(fields[name])
            if len(values) != len(texts):
                raise UserError(f"{len(texts)} {asked} of an image have {len(values)} {name}")
            columns.append(values)
        for text, given, number, kind in zip(texts, *columns, strict=True):
            known = () if given is None else _given(text, given)
            yield Question(image, text, known, number, str(kind or "").replace("/", "_"))


def _given(question: str, answer: Any) -> tuple[str, ...]:
    """The answers that people gave, of a field that has one of them or several."""
    found = answer if isinstance(answer, list) else [answer]
    if not found:
        raise UserError(f"the answer to {question!r} is {answer!r}; it should be a text or several")
    return tuple(required_text(f"the answer to {question!r}", one) for one in found)


def required_text(what: str, value: Any) -> str:
    """A value of a field that should be a text.

    Raises:
      UserError: it is none, or holds half of a surrogate pair.
    """
    if not isinstance(value, str) or not is_text(value):
        raise UserError(f"{what} is {value!r}; it should be a text or several")
    return value


def answer_by_head(handle: Handle, rows: Sequence[Question]) -> Float[np.ndarray, "n c"]:
    """The head's scores of its classes for each question."""
    return np.asarray(handle.classify(np.stack([q.image for q in rows]), [q.text for q in rows]))


def _chosen(handle: Handle, rows: Sequence[Question], candidates: Sequence[str]) -> list[str]:
    pixels, prompts = np.stack([q.image for q in rows]), [q.text for q in rows]
    nats = np.asarray(handle.log_probabilities(pixels, candidates, prompt=prompts))
    return [candidates[i] for i in nats.argmax(axis=1)]


def _generated(handle: Handle, rows: Sequence[Question], options: dict[str, Any]) -> list[str]:
    pixels, prompts = np.stack([q.image for q in rows]), [q.text for q in rows]
    captions = handle.caption(pixels, prompt=prompts, **options)
    return [_behind(caption.text, text) for caption, text in zip(captions, prompts, strict=True)]


def _behind(text: str, question: str) -> str:
    """What was written behind the question, which a tokenizer may have spelled in another way."""
    wanted, met = "".join(question.split()).casefold(), 0
    for place, character in enumerate(text):
        if met == len(wanted):
            return text[place:].strip()
        if not character.isspace():
            if not wanted.startswith(character.casefold(), met):
                return text.rpartition(question[-1])[2].strip()
            met += len(character.casefold())
    return ""


def _metrics(questions: Sequence[Question], scores: Sequence[float]) -> dict[str, float]:
    if not questions:
        return dict.fromkeys(("accuracy", "blind"), Undefined("no question has an answer"))
    by_kind: dict[str, list[float]] = {kind: [] for kind in answers.KINDS}
    for question, score in zip(questions, scores, strict=True):
        by_kind.setdefault(question.kind or answers.kind(question.given), []).append(score)
    metrics = {"accuracy": float(np.mean(scores)), "blind": blind_accuracy(questions)}
    return metrics | {f"accuracy_{k}": float(np.mean(some)) for k, some in by_kind.items() if some}
