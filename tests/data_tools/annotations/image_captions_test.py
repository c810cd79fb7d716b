"""Captions of COCO's and Karpathy's files, in exactly their formats."""

import json

import pytest

from coca_jax import cli
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data_tools.annotations import Annotated, captions_of, read_json, write_table
from coca_jax.errors import UserError


def read_captions(path, split=""):
    return captions_of(path, read_json(path), split)


KARPATHY = {
    "images": [
        {"cocoid": 7, "split": "test", "sentences": [{"raw": "a cat."}, {"raw": "one cat"}]},
        {"cocoid": 8, "split": "restval", "sentences": [{"raw": "a dog"}]},
        {"cocoid": 9, "split": "train", "sentences": [{"raw": "a bus"}]},
    ],
    "dataset": "coco",
}


def test_karpathys_splits(write):
    path = write(KARPATHY)
    assert read_captions(path, "test") == {7: Annotated("", ["a cat.", "one cat"])}
    assert list(read_captions(path, "train")) == [8, 9]  # what COCO's validation left over, too
    assert list(read_captions(path)) == [7, 8, 9]
    flickr = {"images": [{"imgid": 0, "split": "val", "sentences": [{"raw": "a man"}]}]}
    assert read_captions(write(flickr), "val") == {0: Annotated("", ["a man"])}


COCO = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        ("{", "", "cannot be read"),
        ([], "", "not a file of COCO's or Karpathy's"),
        (COCO, "test", "has no split 'test'"),
        (COCO | {"images": [{"id": 1}, {"id": 1}]}, "", "1 id of `images` is duplicated: 1"),
        (COCO | {"images": [{"id": 2}]}, "", "annotated but not listed: 1"),
        (
            COCO | {"annotations": COCO["annotations"] * 2},
            "",
            "1 id of `annotations` is duplicated: 1",
        ),
        (
            COCO | {"annotations": [{"id": 1, "image_id": 1, "text": "a"}]},
            "",
            "number 0 of annotations needs id, image_id, caption; it has id, image_id, text",
        ),
        (KARPATHY, "tset", "has no captions of split 'tset'"),
        ({"images": [{"cocoid": 1, "split": "test", "sentences": ["a"]}]}, "", "image 1 needs raw"),
        (
            {"images": [{"file": "a.jpg"}]},
            "",
            "number 0 of images needs imgid, split, sentences; it has file",
        ),
        ({"images": [3]}, "", "number 0 of images needs imgid, split, sentences; it has 3"),
        ({"images": [{"id": [1]}], "annotations": []}, "", r"id should be a number.*it is \[1\]"),
        (COCO | {"annotations": None}, "", "annotations should be a list; it is None"),
        (
            COCO | {"annotations": [{"id": 1, "image_id": 1, "caption": None}]},
            "",
            "number 0 of annotations: caption should be a text; it is None",
        ),
    ],
)
def test_annotations_that_are_wrong(write, content, split, message):
    with pytest.raises(UserError, match=message):
        read_captions(write(content), split)


def opened(path):
    return open_source(SourceConfig(format="folder", path=str(path)))


NAMES = [f"COCO_val2014_{number:012}.jpg" for number in (1, 2)]


def test_a_table_of_cocos_captions(tmp_path, write, draw, capsys):
    folder = draw(*NAMES)
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
    words = ["data", "convert-annotations", str(write(content)), str(output)]
    assert cli.main([*words, "--images", str(folder)]) == 0
    assert "2 images" in capsys.readouterr().out
    found = {
        record["fields"]["image_id"]: record for record in map(opened(output).__getitem__, (0, 1))
    }
    assert found[1]["captions"] == ["a cat", "ein Kätzchen"]
    image = folder / "COCO_val2014_000000000001.jpg"
    assert found[1]["image"] == image.read_bytes()


def test_a_table_of_karpathys_split(tmp_path, write, draw):
    name = NAMES[1]
    folder = draw(f"val2014/{name}")
    row = {"filepath": "val2014", "filename": name, "cocoid": 2, "imgid": 0, "split": "test"}
    content = {"images": [row | {"sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}]}]}
    output = tmp_path / "out.jsonl"
    assert write_table([write(content)], folder, output, "test").rows == 1
    assert opened(output)[0]["captions"] == ["a dog"]
    assert opened(output)[0]["image"] == (folder / "val2014" / name).read_bytes()


FLICKR30K = {  # as in dataset_flickr30k.json
    "images": [
        {
            "sentids": [5 * i, 5 * i + 1],
            "imgid": i,
            "sentences": [
                {
                    "tokens": text.lower().split(),
                    "raw": text,
                    "imgid": i,
                    "sentid": 5 * i + n,
                }
                for n, text in enumerate(("Two men .", "A man ."))
            ],
            "split": split,
            "filename": name,
        }
        for i, (name, split) in enumerate(
            [("1000092795.jpg", "train"), ("1007129816.jpg", "test"), ("1009434119.jpg", "val")]
        )
    ],
    "dataset": "flickr30k",
}


def test_a_table_of_flickr30k(tmp_path, write, draw, rows):
    folder, output = draw("1007129816.jpg"), tmp_path / "out.jsonl"
    assert write_table([write(FLICKR30K)], folder, output, "test") == (1, "images", "")
    assert rows(output) == [
        {
            "image": str(folder / "1007129816.jpg"),
            "image_id": 1,
            "captions": ["Two men .", "A man ."],
        }
    ]
    assert opened(output)[0]["image"] == (folder / "1007129816.jpg").read_bytes()


def test_captions_without_a_file(tmp_path, write):
    with pytest.raises(UserError, match="1 id of images has no file name: 1"):
        write_table([write(COCO)], tmp_path, tmp_path / "out.jsonl")


def test_half_a_character_stays_an_escape(tmp_path, write, draw):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "half \ud83d"}],
    }
    output = tmp_path / "out.jsonl"
    write_table([write(content)], draw("a.jpg"), output)
    assert json.loads(output.read_text())["captions"] == ["half \ud83d"]
    record = opened(output)[0]  # to which it is not text
    assert record["captions"] == [] and "half" in record["no_text"]
