"""VQAv2's two files, in exactly their formats."""

import numpy as np
import pytest

from coca_jax.data.captions import CaptionMaker
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data_tools.annotations import write_table
from coca_jax.errors import UserError

QUESTIONS = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 1, "question": "Is it gray?", "question_id": 1000},
        {"image_id": 2, "question": "What is it?", "question_id": 2000},
        {"image_id": 1, "question": "How many?", "question_id": 1001},
    ],
}
ANSWERS = {
    "annotations": [
        {"question_id": q, "image_id": q // 1000, "answer_type": kind, "answers": given}
        for q, kind, given in (
            (1000, "yes/no", [{"answer": "yes", "answer_id": i} for i in range(10)]),
            (1001, "number", [{"answer": "1", "answer_id": i} for i in range(10)]),
            (2000, "other", [{"answer": "a dog", "answer_id": i} for i in range(10)]),
        )
    ]
}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_table_of_vqav2(tmp_path, write, draw, swapped):
    folder = draw(*(f"COCO_val2014_{number:012}.jpg" for number in (1, 2)))
    paths = [write(QUESTIONS, "q.json"), write(ANSWERS, "a.json")]
    output = tmp_path / "out.jsonl"
    assert write_table(paths[::-1] if swapped else paths, folder, output).rows == 2
    record = open_source(SourceConfig(format="folder", path=str(output)))[0]
    assert record["fields"] == {
        "image_id": 1,
        "questions": ["Is it gray?", "How many?"],
        "answers": [["yes"] * 10, ["1"] * 10],
        "question_ids": [1000, 1001],
        "answer_types": ["yes/no", "number"],
    }
    make = CaptionMaker(captions="questions")
    texts = {make(record, 0, np.random.default_rng(seed)).text for seed in range(20)}
    assert texts == {"Is it gray? yes", "How many? 1"}


def test_questions_of_a_test_split(tmp_path, write, draw):
    folder = draw(*(f"COCO_test2015_{number:012}.jpg" for number in (1, 2)))
    questions = write(QUESTIONS | {"data_subtype": "test-dev2015"}, "q.json")
    output = tmp_path / "out.jsonl"
    assert write_table([questions], folder, output).rows == 2
    record = open_source(SourceConfig(format="folder", path=str(output)))[1]
    assert record["fields"] == {
        "image_id": 2,
        "questions": ["What is it?"],
        "question_ids": [2000],
    }
    with pytest.raises(UserError, match=r"a\.json has VQAv2's answers: also give the file"):
        write_table([write(ANSWERS, "a.json")], folder, output)
    with pytest.raises(UserError, match="has no split 'val'"):
        write_table([questions], folder, output, "val")


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        (QUESTIONS["questions"][:2], ANSWERS["annotations"], "answered but not asked: 1001"),
        (
            QUESTIONS["questions"],
            ANSWERS["annotations"][:2],
            "1 id of questions has no answer: 2000",
        ),
        (QUESTIONS["questions"] * 2, ANSWERS["annotations"], "duplicated: 1000, 1001, 2000"),
        (QUESTIONS["questions"], ANSWERS["annotations"] * 2, "duplicated: 1000, 1001, 2000"),
        ([], ANSWERS["annotations"], "has no `questions`"),
        (
            [{"image_id": "one", "question": "x", "question_id": 1000}],
            ANSWERS["annotations"],
            "number 0 of rows: image_id should be a whole number; it is 'one'",
        ),
        (
            QUESTIONS["questions"],
            [ANSWERS["annotations"][0] | {"answers": []}],
            "question 1000 has no answers",
        ),
        (
            QUESTIONS["questions"],
            [ANSWERS["annotations"][0] | {"answers": ["yes"]}],
            "number 0 of answers to question 1000 needs answer; it has 'yes'",
        ),
        ([{"question": "x"}], ANSWERS["annotations"], "needs question_id, image_id, question"),
    ],
)
def test_questions_that_do_not_fit_their_answers(tmp_path, write, questions, answers, message):
    paths = [
        write(QUESTIONS | {"questions": questions}, "q.json"),
        write({"annotations": answers}, "a.json"),
    ]
    with pytest.raises(UserError, match=message):
        write_table(paths, tmp_path, tmp_path / "out.jsonl")
