import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.tokenizers.clip_bpe import ClipTokenizer
from coca_jax.errors import UserError
from coca_jax.evaluate import questions as of_images
from coca_jax.evaluate import vqa
from coca_jax.evaluate.metrics.undefined import defined, reasons
from coca_jax.evaluate.metrics.vqa_accuracy import text_only_upper_bound, vqa_accuracy
from coca_jax.evaluate.parsing import eval_errors, parse_evals


@dataclasses.dataclass(frozen=True)
class Caption:
    text: str
    log_probability: float = -1.0


class Parrot:
    """Answers each question as configured, about an image known by its first value."""

    def encode_image(self, *_):
        raise AssertionError("never asked for")

    encode_text = image_tokens = attention_maps = losses = matching_logits = encode_image
    tokenizer = ByteTokenizer()

    def tokenize(self, texts):
        return self.tokenizer.encode(texts, 32)

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
    (("how many?", "what color?"), ("two", "red")),
    (("how many?", "is it big?"), ("one", ["yes"] * 6 + ["no"] * 4)),
    (("how many?",), ("two",)),
    ((), ()),
]
DATA = {"kind": "vqa", "name": "shapes", "split": "test"}
CLASSES = ("one", "two", "blue", "red", "Yes.")
KNOWN = {
    (0, "how many?"): "two",
    (0, "what color?"): "blue",
    (1, "how many?"): "one",
    (1, "is it big?"): "Yes.",
    (2, "how many?"): "two",
}


def evaluate(fake_data, model, batches, **options):
    return vqa.VQA(**options).run(model, fake_data(batches, head_classes=CLASSES))


def batches():
    for i, (questions, answers) in enumerate(QUESTIONS):
        yield {
            "image": np.full((1, 4, 4, 3), i, np.uint8),
            "captions": [[]],
            "label": np.array([-1]),
            "fields": [{"questions": list(questions), "answers": list(answers)}],
            "bad_image": int(i == 0),
        }


@pytest.mark.parametrize("scoring", ["generation", "candidates"])
def test_answers_are_scored(scoring, fake_data, monkeypatch):
    monkeypatch.setattr(of_images, "ROWS", 2)
    known = KNOWN if scoring == "generation" else KNOWN | {(1, "is it big?"): "yes"}
    parrot = Parrot(known)
    metrics, artifacts = evaluate(
        fake_data,
        parrot,
        batches(),
        scoring=scoring,
        candidates=("red", "blue", "one", "two", "yes"),
    )
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert metrics["accuracy_number"] == metrics["accuracy_yes_no"] == 1
    assert metrics["accuracy_other"] == 0
    # "two" is right of two in three; the other questions are asked once each.
    assert metrics["text_only_upper_bound"] == pytest.approx((2 + 1 + 1) / 5)
    assert (metrics["count"], metrics["bad_images"]) == (5, 1)
    wrong = [row for row in artifacts["questions"] if row["accuracy"] < 1]
    assert [(row["question"], row["answer"], row["given"]) for row in wrong] == [
        ("what color?", "blue", "red")
    ]
    if scoring == "generation":
        assert [rows for rows, _ in parrot.calls] == [2, 2, 1]


@pytest.mark.parametrize(
    ("scoring", "options", "right"),
    [
        ("generation", {}, 2),
        ("generation", {"length": 31}, 1),
        ("candidates", {"candidates": ("red", "two")}, 2),
        ("head", {}, 3),
    ],
)
def test_questions_that_leave_no_room_for_an_answer(scoring, options, right, fake_data):
    """Of 32 tokens, the begin token and 30 bytes leave one; a head cuts its texts."""
    texts = ["w" * length for length in (29, 30, 31)]
    fields = {"questions": texts, "answers": ["two"] * 3, "question_ids": [1, 2, 3]}
    batch = next(iter(batches())) | {"fields": [fields]}
    parrot = Parrot({(0, text): "two" for text in texts})
    metrics, artifacts = evaluate(fake_data, parrot, [batch], scoring=scoring, **options)
    assert metrics["accuracy"] == pytest.approx(right / 3) and metrics["count"] == 3
    assert metrics.get("too_long", 0) == 3 - right
    answers = [row["answer"] for row in artifacts["files"]["results"]]
    assert answers == ["two"] * right + [""] * (3 - right)


def test_candidates_are_all_right_answers_unless_named(tmp_path, fake_data):
    parrot = Parrot(KNOWN | {(1, "is it big?"): "yes"})
    data = DATA | {"scoring": "candidates"}
    (tmp_path / "answers.txt").write_text("no\ntwo\none\n")
    # "blue" is nobody's answer: the first candidate stands in for it, and is wrong, too.
    named = {"answers": ("no", "two", "one"), "file": str(tmp_path / "answers.txt")}
    sections = {"all": data} | {key: data | {"candidates": c} for key, c in named.items()}
    metrics = {
        name: evaluation.run(parrot, fake_data(list(batches())))[0]
        for name, evaluation in parse_evals(ConfigDict(sections)).items()
    }
    assert vqa.all_answers(batches(), of_images.QUESTIONS) == ["one", "red", "two", "yes"]
    assert metrics["all"]["accuracy"] == pytest.approx(4 / 5)
    # "no" instead of "yes" is right of four in ten, all but one of whom agree.
    assert metrics["answers"] == metrics["file"]
    assert metrics["file"]["accuracy"] == pytest.approx((3 + 1) / 5)


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("how many ? two", "how many?", "two"),
        ("name the colors red and blue stripes", "name the  colors ", "red and blue stripes"),
        ("what ' s it ? a cat ?", "what's it?", "a cat ?"),
        ("is it", "is it", ""),
        ("a cat", "", "a cat"),
    ],
)
def test_what_is_behind_a_question_that_was_spaced_anew(text, question, answer):
    assert of_images.text_behind(text, question) == answer


@pytest.mark.parametrize("question", ["What\u2019s it?", "what is it? ", "Is it &amp; a \u00c9?"])
def test_what_is_behind_a_question_that_the_tokenizer_spells_anew(question, fake_data):
    class Speller(Parrot):
        tokenizer = ClipTokenizer()

        def caption(self, pixels, prompt, **options):
            written = super().caption(pixels, prompt, **options)
            return [
                Caption(text)
                for text in self.tokenizer.decode(self.tokenize([c.text for c in written]))
            ]

    row = next(batches()) | {"fields": [{"questions": [question], "answers": ["a cat?"]}]}
    _, artifacts = evaluate(fake_data, Speller({(0, question.strip()): "a cat"}), [row])
    assert artifacts["questions"][0]["answer"] == "a cat"


def test_a_question_of_several_records_is_asked_once(capsys, fake_data):
    rows = [row for _ in range(2) for row in list(batches())[:2]]
    for i, row in enumerate(rows):
        row["fields"][0]["question_ids"] = [[7, 8], ["9", 10]][i % 2]
    metrics, artifacts = evaluate(fake_data, Parrot(KNOWN), rows)
    assert [row["question_id"] for row in artifacts["files"]["results"]] == [7, 8, "9", 10]
    assert metrics["count"] == 4 and "4 questions are repeated" in capsys.readouterr().err
    rows[3]["fields"][0]["answers"] = ["one", "no"]
    with pytest.raises(UserError, match=r"question 10 is duplicated: .*all answers to a question"):
        evaluate(fake_data, Parrot(KNOWN), rows)


@pytest.mark.parametrize(
    "fields",
    [
        {"questions": ["a \ud800?"], "answers": ["a"]},
        {"questions": ["a?"], "answers": ["\udfff"]},
        {"questions": [5], "answers": ["a"]},
        {"questions": ["a?"], "answers": [["a", None]]},
    ],
)
def test_what_is_no_text_is_named(fields, fake_data):
    row = next(batches()) | {"fields": [fields]}
    with pytest.raises(UserError, match="should be a text or texts"):
        evaluate(fake_data, Parrot(KNOWN), [row])


def test_answers_to_numbered_questions_are_what_the_challenge_takes(fake_data):
    rows = list(batches())[:2]
    rows[0]["fields"][0] |= {"question_ids": [7, 8], "answer_types": ["other", "yes/no"]}
    rows[1]["fields"][0]["answers"] = None  # as absent columns of a table are
    rows[1]["fields"][0]["question_ids"] = [9, 10]
    metrics, artifacts = evaluate(fake_data, Parrot(KNOWN), rows)
    assert artifacts["files"]["results"] == [
        {"question_id": 7, "answer": "two"},
        {"question_id": 8, "answer": "blue"},
        {"question_id": 9, "answer": "one"},
        {"question_id": 10, "answer": "Yes."},
    ]
    assert (metrics["count"], metrics["unanswered"], metrics["accuracy"]) == (2, 2, 0.5)
    assert (metrics["accuracy_other"], metrics["accuracy_yes_no"]) == (1, 0)  # as the data say
    metrics, artifacts = evaluate(fake_data, Parrot(KNOWN), rows[1:])
    assert defined(metrics) == {"count": 0, "unanswered": 2, "bad_images": 0}
    assert reasons(metrics) == dict.fromkeys(
        ("accuracy", "text_only_upper_bound"), "no question has an answer"
    )
    with pytest.raises(UserError, match="no question has an answer that could be a candidate"):
        vqa.all_answers(rows[1:], of_images.QUESTIONS)
    del rows[1]["fields"][0]["question_ids"]
    with pytest.raises(UserError, match="no example has the field answers, nor question_ids"):
        evaluate(fake_data, Parrot(KNOWN), rows[1:])
    rows[0]["fields"][0]["question_ids"] = [7]
    with pytest.raises(UserError, match="2 questions of an image have 1 question_ids"):
        evaluate(fake_data, Parrot(KNOWN), rows)


def test_ids_are_of_the_questions_and_of_no_other_texts():
    (row,) = list(batches())[2:3]
    row["fields"][0] |= {"question_ids": [7], "hypotheses": ["a", "b"], "judgements": ["c", "d"]}
    assert [q.number for q in of_images.questions_of(row, *of_images.QUESTIONS)] == [7]
    assert [q.number for q in of_images.questions_of(row, "hypotheses", "judgements")] == [
        None,
        None,
    ]


def test_questions_and_answers_are_read_without_the_white_space_around_them():
    (row,) = list(batches())[2:3]
    row["fields"][0] = {"questions": [" is it?\n"], "answers": [[" no ", "yes"]]}
    (question,) = of_images.questions_of(row, *of_images.QUESTIONS)
    assert question.text == "is it?" and question.given == ("no", "yes")


def test_the_text_only_upper_bound_is_what_the_best_constant_answer_reaches():
    people = [
        ["red"] * 4 + ["blue"] * 3 + ["dark"] * 3,
        ["green"] * 4 + ["Blue!"] * 3 + ["light"] * 3,
        ["blue"] * 10,
        ["Blue!"] * 10,  # all agree, and are compared as they are
        ["blue "] * 10,  # which with a space at the end is nothing that can be said
    ]
    pairs = [("what color?", given) for given in people]
    guesses = {one for given in people for one in given}
    best = max(np.mean([vqa_accuracy(guess, given) for given in people]) for guess in guesses)
    assert text_only_upper_bound(pairs) == pytest.approx(best)
    assert best > np.mean([vqa_accuracy("red", given) for given in people])


def test_no_questions_is_an_error_of_the_user(fake_data):
    rows = list(batches())
    with pytest.raises(UserError, match="no example has the field questions"):
        evaluate(fake_data, Parrot({}), rows[3:])
    rows[0]["fields"][0]["answers"].pop()
    with pytest.raises(UserError, match="2 questions of an image have 1 answers"):
        evaluate(fake_data, Parrot(KNOWN), rows)


@pytest.mark.parametrize("answer", [True, [], ["red", None], {"answer": "red"}])
def test_answers_that_are_no_texts(answer, fake_data):
    rows = list(batches())[2:3]
    rows[0]["fields"][0]["answers"] = [answer]
    with pytest.raises(
        UserError, match=r"the answer to 'how many\?' is .*; it should be a text or"
    ):
        evaluate(fake_data, Parrot(KNOWN), rows)


def test_options_that_are_wrong():
    sections = {
        "good": DATA | {"scoring": "candidates"},
        "bad": DATA | {"scoring": "captions"},
        "worse": DATA | {"beams": 0},
        "wrong": DATA | {"scoring": "candidates", "candidates": "absent.txt"},
        "none": DATA | {"questions": None},
    }
    bad, none, worse, wrong = eval_errors(ConfigDict(sections))
    assert bad == (
        "config.eval.bad.scoring='captions' should be one of generation, candidates, head"
    )
    assert none == "config.eval.none.questions=None should be the names of two fields"
    assert "eval.worse.beams" in worse
    assert wrong.startswith("config.eval.wrong.candidates='absent.txt': absent.txt cannot be read:")
    unused = {
        "a": DATA | {"candidates": ("yes", "no")},
        "b": DATA | {"scoring": "head", "candidates": "absent.txt"},
        "c": DATA | {"scoring": "candidates", "length": 9, "method": "beam", "beams": 2},
        "d": DATA | {"scoring": "head", "length": None, "candidates": None},
    }
    assert eval_errors(ConfigDict(unused)) == [
        "config.eval.a.candidates=('yes', 'no') has no effect: scoring='generation'",
        "config.eval.b.candidates='absent.txt' has no effect: scoring='head'",
        "config.eval.c.method='beam' has no effect: scoring='candidates'",
        "config.eval.c.length=9 has no effect: scoring='candidates'",
        "config.eval.c.beams=2 has no effect: scoring='candidates'",
    ]
    assert vqa.VQA().requires == "captioning" and not vqa.VQA().several_images


def test_answers_of_a_head(monkeypatch, fake_data):
    monkeypatch.setattr(of_images, "ROWS", 2)
    metrics, _ = evaluate(fake_data, Parrot(KNOWN), batches(), scoring="head")
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    head = vqa.VQA(scoring="head")
    assert head.requires == "classification" and head.several_images
