"""Published annotation files, in exactly their formats, as tables."""

import json

import cv2
import numpy as np
import pytest

from coca_jax import cli
from coca_jax.data.annotations import Annotated, captions_of, read_json, write_table
from coca_jax.data.captions import CaptionMaker
from coca_jax.data.sources import open_source
from coca_jax.errors import UserError


def written(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read_captions(path, split=""):
    return captions_of(path, read_json(path), split)


@pytest.fixture
def pictures(tmp_path):
    """A folder of images, each of one grey, named as COCO's are."""
    folder = tmp_path / "pictures"
    (folder / "val2014").mkdir(parents=True)
    for number in (1, 2):
        name = f"COCO_val2014_{number:012}.jpg"
        for place in (folder / name, folder / "val2014" / name):
            cv2.imwrite(str(place), np.full((8, 8, 3), 40 * number, np.uint8))
    return folder


KARPATHY = {
    "images": [
        {"cocoid": 7, "split": "test", "sentences": [{"raw": "a cat."}, {"raw": "one cat"}]},
        {"cocoid": 8, "split": "restval", "sentences": [{"raw": "a dog"}]},
        {"cocoid": 9, "split": "train", "sentences": [{"raw": "a bus"}]},
    ],
    "dataset": "coco",
}


def test_karpathys_splits(tmp_path):
    path = written(tmp_path, KARPATHY)
    assert read_captions(path, "test") == {7: Annotated("", ["a cat.", "one cat"])}
    assert list(read_captions(path, "train")) == [8, 9]  # what COCO's validation left over, too
    assert list(read_captions(path)) == [7, 8, 9]
    flickr = {"images": [{"imgid": 0, "split": "val", "sentences": [{"raw": "a man"}]}]}
    assert read_captions(written(tmp_path, flickr), "val") == {0: Annotated("", ["a man"])}


COCO = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        ("{", "", "cannot be read"),
        ([], "", "no file of COCO's or Karpathy's"),
        (COCO, "test", "has no split 'test'"),
        (COCO | {"images": [{"id": 1}, {"id": 1}]}, "", "1 ids of `images` are there twice: 1"),
        (COCO | {"images": [{"id": 2}]}, "", "annotated and not listed: 1"),
        (
            COCO | {"annotations": COCO["annotations"] * 2},
            "",
            "1 ids of `annotations` are there twice: 1",
        ),
        (
            COCO | {"annotations": [{"id": 1, "image_id": 1, "text": "a"}]},
            "",
            "number 0 of annotations needs id, image_id, caption; it has id, image_id, text",
        ),
        (KARPATHY, "tset", "has no captions of split 'tset'"),
        ({"images": [{"cocoid": 1, "split": "test", "sentences": ["a"]}]}, "", "image 1 needs raw"),
        ({"images": [{"file": "a.jpg"}]}, "", "number 0 of images needs imgid; it has file"),
    ],
)
def test_annotations_that_are_wrong(tmp_path, content, split, message):
    with pytest.raises(UserError, match=message):
        read_captions(written(tmp_path, content), split)


def opened(path):
    return open_source({"format": "folder", "path": str(path)})


def test_a_table_of_cocos_captions(tmp_path, pictures, capsys):
    content = {
        "info": {"year": 2014},
        "images": [
            {"id": 2, "file_name": "COCO_val2014_000000000002.jpg", "height": 8, "width": 8},
            {"id": 1, "file_name": "COCO_val2014_000000000001.jpg", "height": 8, "width": 8},
        ],
        "annotations": [
            {"id": 5, "image_id": 1, "caption": "a cat"},
            {"id": 6, "image_id": 2, "caption": "a dog "},
            {"id": 7, "image_id": 1, "caption": "ein Kätzchen"},
        ],
    }
    output = tmp_path / "out.jsonl"
    words = ["data", "table", str(written(tmp_path, content)), str(output)]
    assert cli.main([*words, "--images", str(pictures)]) == 0
    assert "2 images" in capsys.readouterr().out
    found = {
        record["fields"]["image_id"]: record for record in map(opened(output).__getitem__, (0, 1))
    }
    assert found[1]["captions"] == ["a cat", "ein Kätzchen"]
    picture = pictures / "COCO_val2014_000000000001.jpg"
    assert found[1]["image"] == picture.read_bytes()


def test_a_table_of_karpathys_split(tmp_path, pictures):
    name = "COCO_val2014_000000000002.jpg"
    row = {"filepath": "val2014", "filename": name, "cocoid": 2, "imgid": 0, "split": "test"}
    content = {"images": [row | {"sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}]}]}
    output = tmp_path / "out.jsonl"
    assert write_table([written(tmp_path, content)], pictures, output, "test") == 1
    assert opened(output)[0]["captions"] == ["a dog"]
    assert opened(output)[0]["image"] == (pictures / "val2014" / name).read_bytes()


QUESTIONS = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 1, "question": "Is it grey?", "question_id": 1000},
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
def test_a_table_of_vqav2(tmp_path, pictures, swapped):
    paths = [written(tmp_path, QUESTIONS, "q.json"), written(tmp_path, ANSWERS, "a.json")]
    output = tmp_path / "out.jsonl"
    assert write_table(paths[::-1] if swapped else paths, pictures, output) == 2
    record = opened(output)[0]
    assert record["fields"] == {
        "image_id": 1,
        "questions": ["Is it grey?", "How many?"],
        "answers": [["yes"] * 10, ["1"] * 10],
        "question_ids": [1000, 1001],
    }
    make = CaptionMaker(captions="questions")
    texts = {make(record, 0, np.random.default_rng(seed)) for seed in range(20)}
    assert texts == {"Is it grey? yes", "How many? 1"}


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        (QUESTIONS["questions"][:2], ANSWERS["annotations"], "answered and not asked: 1001"),
        (QUESTIONS["questions"], ANSWERS["annotations"][:2], "have no answer: 2000"),
        (QUESTIONS["questions"] * 2, ANSWERS["annotations"], "there twice: 1000, 1001, 2000"),
        (QUESTIONS["questions"], ANSWERS["annotations"] * 2, "there twice: 1000, 1001, 2000"),
        ([], ANSWERS["annotations"], "has no `questions`"),
        ([{"question": "x"}], ANSWERS["annotations"], "needs question_id, image_id, question"),
    ],
)
def test_questions_that_do_not_fit_their_answers(tmp_path, pictures, questions, answers, message):
    paths = [
        written(tmp_path, QUESTIONS | {"questions": questions}, "q.json"),
        written(tmp_path, {"annotations": answers}, "a.json"),
    ]
    with pytest.raises(UserError, match=message):
        write_table(paths, pictures, tmp_path / "out.jsonl")


def test_an_image_that_is_listed_and_absent(tmp_path, pictures):
    paths = [written(tmp_path, QUESTIONS, "q.json"), written(tmp_path, ANSWERS, "a.json")]
    (pictures / "COCO_val2014_000000000002.jpg").unlink()
    with pytest.raises(UserError, match=r"1 rows name images that are absent: .*0002\.jpg"):
        write_table(paths, pictures, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(UserError, match=r"should end with \.jsonl"):
        write_table(paths, pictures, tmp_path / "out.json")
    with pytest.raises(UserError, match="one file of captions is needed"):
        write_table([*paths, paths[0]], pictures, tmp_path / "out.jsonl")
