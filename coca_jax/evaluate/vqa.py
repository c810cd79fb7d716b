"""Questions about images, answered by the decoder, written or chosen, or by a head's classes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from coca_jax.data.captions import listed
from coca_jax.errors import UserError
from coca_jax.evaluate import answers
from coca_jax.evaluate.embed import thumbnail
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.spaced import EvenlySpaced

ROWS = 256  # questions at a time
SAMPLES = 24


class Question(NamedTuple):
    """A question about an image and the answers that people gave."""

    image: Any  # uint8 [h, w, 3], or of several pictures
    text: str
    given: tuple[str, ...]


def evaluate(
    handle: Handle,
    batches: Iterable[dict[str, Any]],
    by: str = "generation",
    candidates: Sequence[str] = (),
    questions: Sequence[str] = ("questions", "answers"),
    classes: Sequence[str] = (),
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Asks every question of every image.

    Args:
      handle: the model.
      batches: of images, whose `fields` have questions and answers: for each question one answer,
        or the list of those that people gave.
      by: "generation"; "candidates": the answer that is most probable behind the question; or
        "head": one of its classes.
      candidates: to choose from; none: all right answers of these examples.
      questions: names of the two fields.
      classes: names of the head's.
      **options: how answers are generated; see `LoadedModel.caption`.

    Returns:
      Accuracy (`answers.accuracy`), also by kind of answer, and what the best guess would reach
      that knows how often each answer is right for a question, but sees no image (`blind`). For
      the report, some questions with their answers.

    Raises:
      UserError: there are no questions, or not as many answers, or one that is no text.
    """
    if by == "candidates" and not candidates:
        batches = list(batches)
        candidates = _all_answers([q for batch in batches for q in questions_of(batch, *questions)])
    asked, scores, drawn, bad = [], [], EvenlySpaced(SAMPLES), 0
    for batch in batches:
        bad += batch.get("bad_image", 0)
        for rows in in_parts(list(questions_of(batch, *questions))):
            if by == "head":
                found = [classes[i] for i in answer_by_head(handle, rows).argmax(axis=1)]
            elif by == "candidates":
                found = _chosen(handle, rows, candidates)
            else:
                found = _generated(handle, rows, options)
            scores += [answers.accuracy(a, q.given) for a, q in zip(found, rows, strict=True)]
            asked += keep(rows, found, scores[-len(rows) :], drawn)
    if not asked:
        raise UserError(f"vqa needs questions, and no example has the field {questions[0]}")
    metrics = {"accuracy": float(np.mean(scores)), "blind": blind_accuracy(asked)}
    metrics |= _by_kind(asked, scores) | {"count": float(len(asked))}
    return metrics | {"bad_images": float(bad)}, {"questions": drawn.chosen()}


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
    """Accuracy of each question's most frequent answer among these very examples.

    No text-only model does better on them, but by learning which examples they are.
    """
    by_text = defaultdict(list)
    for question in questions:
        by_text[question.text].append(question.given)
    total = 0.0
    for given in by_text.values():
        guesses = Counter(answers.commonest(some) for some in given)
        total += max(sum(answers.accuracy(guess, some) for some in given) for guess in guesses)
    return total / len(questions)


def questions_of(batch: dict[str, Any], asked: str, answered: str) -> Iterable[Question]:
    """The questions about a batch's images.

    Args:
      batch: with `fields` of each image.
      asked: name of the field with the questions.
      answered: name of the field with the answers to each.

    Raises:
      UserError: they are not as many.
    """
    for image, fields in zip(batch["image"], batch["fields"], strict=True):
        texts, right = listed(fields.get(asked)), listed(fields.get(answered))
        if len(texts) != len(right):
            raise UserError(f"{len(texts)} {asked} of an image have {len(right)} {answered}")
        for text, given in zip(texts, right, strict=True):
            yield Question(image, text, _given(text, given))


def _given(question: str, answer: Any) -> tuple[str, ...]:
    """The answers that people gave, of a field that has one of them or several."""
    found = answer if isinstance(answer, list) else [answer]
    if not found or not all(isinstance(one, str) for one in found):
        raise UserError(f"the answer to {question!r} is {answer!r}; it should be a text or several")
    return tuple(found)


def answer_by_head(handle: Handle, rows: Sequence[Question]) -> Float[np.ndarray, "n c"]:
    """The head's scores of its classes for each question."""
    return np.asarray(handle.classify(np.stack([q.image for q in rows]), [q.text for q in rows]))


def _all_answers(questions: Sequence[Question]) -> list[str]:
    return sorted({answers.commonest(question.given) for question in questions})


def _chosen(handle: Handle, rows: Sequence[Question], candidates: Sequence[str]) -> list[str]:
    pixels, prompts = np.stack([q.image for q in rows]), [q.text for q in rows]
    nats = np.asarray(handle.log_probabilities(pixels, candidates, prompt=prompts))
    return [candidates[i] for i in nats.argmax(axis=1)]


def _generated(handle: Handle, rows: Sequence[Question], options: dict[str, Any]) -> list[str]:
    pixels, prompts = np.stack([q.image for q in rows]), [q.text for q in rows]
    captions = handle.caption(pixels, prompt=prompts, **options)
    return [_behind(caption.text, text) for caption, text in zip(captions, prompts, strict=True)]


def _behind(text: str, question: str) -> str:
    """What was written behind the question (which a tokenizer may spell in another way)."""
    if text.startswith(question):
        return text[len(question) :].strip()
    return text.rpartition(question[-1])[2].strip()


def _by_kind(questions: Sequence[Question], scores: Sequence[float]) -> dict[str, float]:
    kinds = [answers.kind(question.given) for question in questions]
    by_kind = {kind: [] for kind in answers.KINDS if kind in kinds}
    for kind, score in zip(kinds, scores, strict=True):
        by_kind[kind].append(score)
    return {f"accuracy_{kind}": float(np.mean(some)) for kind, some in by_kind.items()}
