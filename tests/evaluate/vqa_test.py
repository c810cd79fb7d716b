import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate import vqa
from coca_jax.evaluate.runner import mistakes, needs


@dataclasses.dataclass(frozen=True)
class Caption:
    text: str
    log_probability: float = -1.0


class Parrot:
    """Answers each question as it was told to, about an image known by its first value."""

    def tokenize(self, *_):
        raise AssertionError("never asked for")

    encode_image = encode_text = image_tokens = attention_maps = tokenize

    def __init__(self, known):
        self.known, self.calls = known, []

    def caption(self, pixels, prompt, **options):
        self.calls.append((len(pixels), options))
        reds = [int(image[0, 0, 0]) for image in pixels]
        return [Caption(f"{q} {self.known[r, q]}") for r, q in zip(reds, prompt, strict=True)]

    def classify(self, pixels, texts):
        reds = [int(image[0, 0, 0]) for image in pixels]
        found = [CLASSES.index(self.known[pair]) for pair in zip(reds, texts, strict=True)]
        return np.eye(len(CLASSES))[found]

    def log_probabilities(self, pixels, texts, prompt):
        reds = [int(image[0, 0, 0]) for image in pixels]
        pairs = zip(reds, prompt, strict=True)
        return np.array([[float(self.known[pair] == text) for text in texts] for pair in pairs])


QUESTIONS = [
    (("how many?", "what colour?"), ("two", "red")),
    (("how many?", "is it big?"), ("one", ["yes"] * 6 + ["no"] * 4)),
    (("how many?",), ("two",)),
    ((), ()),
]
CLASSES = ("one", "two", "blue", "red", "Yes.")
KNOWN = {
    (0, "how many?"): "two",
    (0, "what colour?"): "blue",
    (1, "how many?"): "one",
    (1, "is it big?"): "Yes.",
    (2, "how many?"): "two",
}


def batches():
    for i, (questions, answers) in enumerate(QUESTIONS):
        yield {
            "image": np.full((1, 4, 4, 3), i, np.uint8),
            "captions": [[]],
            "label": np.array([-1]),
            "fields": [{"questions": list(questions), "answers": list(answers)}],
            "bad_image": int(i == 0),
        }


@pytest.mark.parametrize("by", ["generation", "candidates"])
def test_answers_are_scored(by, monkeypatch):
    monkeypatch.setattr(vqa, "ROWS", 2)
    known = KNOWN if by == "generation" else KNOWN | {(1, "is it big?"): "yes"}
    parrot = Parrot(known)
    metrics, artefacts = vqa.evaluate(parrot, batches(), by, ("red", "blue", "one", "two", "yes"))
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert metrics["accuracy_number"] == metrics["accuracy_yes_no"] == 1
    assert metrics["accuracy_other"] == 0
    # "two" is right of two in three; the other questions are asked once each.
    assert metrics["blind"] == pytest.approx((2 + 1 + 1) / 5)
    assert (metrics["count"], metrics["bad_images"]) == (5, 1)
    wrong = [row for row in artefacts["questions"] if row["accuracy"] < 1]
    assert [(row["question"], row["answer"], row["given"]) for row in wrong] == [
        ("what colour?", "blue", "red")
    ]
    if by == "generation":
        assert [rows for rows, _ in parrot.calls] == [2, 2, 1]


def test_candidates_are_all_right_answers_unless_named():
    metrics, _ = vqa.evaluate(Parrot(KNOWN | {(1, "is it big?"): "yes"}), batches(), "candidates")
    # "blue" is nobody's answer: the first candidate stands in for it, and is wrong, too.
    assert metrics["accuracy"] == pytest.approx(4 / 5)


def test_what_is_behind_a_question_that_was_spelled_anew():
    assert vqa._behind("how many ? two", "how many?") == "two"


def test_no_questions_is_an_error_of_the_user():
    rows = list(batches())
    with pytest.raises(UserError, match="no example has the field questions"):
        vqa.evaluate(Parrot({}), rows[3:])
    rows[0]["fields"][0]["answers"].pop()
    with pytest.raises(UserError, match="2 questions of an image have 1 answers"):
        vqa.evaluate(Parrot(KNOWN), rows)


@pytest.mark.parametrize("answer", [3, [], ["red", None], {"answer": "red"}])
def test_answers_that_are_no_texts(answer):
    rows = list(batches())[2:3]
    rows[0]["fields"][0]["answers"] = [answer]
    with pytest.raises(
        UserError, match=r"the answer to 'how many\?' is .*; it should be a text or"
    ):
        vqa.evaluate(Parrot(KNOWN), rows)


def test_mistakes_in_the_configuration():
    found = mistakes(
        ConfigDict(
            {
                "good": {"kind": "vqa", "name": "shapes", "split": "test", "by": "candidates"},
                "bad": {"kind": "vqa", "name": "shapes", "split": "test", "by": "captions"},
                "worse": {"kind": "vqa", "name": "shapes", "split": "test", "beams": 0},
            }
        )
    )
    assert len(found) == 2
    assert found[0] == "eval.bad.by is 'captions'; it is 'generation' or 'candidates' or 'head'"
    assert "eval.worse" in found[1]
    assert needs(ConfigDict({"kind": "vqa"})) == "captioning"


def test_answers_of_a_head(monkeypatch):
    monkeypatch.setattr(vqa, "ROWS", 2)
    metrics, _ = vqa.evaluate(Parrot(KNOWN), batches(), "head", classes=CLASSES)
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert needs(ConfigDict({"kind": "vqa", "by": "head"})) == "classification"
