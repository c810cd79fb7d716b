import csv
import errno
import json
import math
import os
import uuid

import fsspec
import numpy as np
import pytest

from coca_jax.data.captions import CaptionMaker
from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Source
from coca_jax.data.sources.folder import folder_source
from coca_jax.errors import UserError
from coca_jax.evaluate.questions import QUESTIONS, questions_of


@pytest.fixture
def photos(tmp_path):
    """A folder with a table, and photos/0.jpg to photos/2.jpg, whose bytes are b"0" to b"2"."""
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / f"photos/{i}.jpg").write_bytes(b"%d" % i)

    def make(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return make


def test_rows_of_an_image_are_one_record(photos):
    path = photos(
        "coco.csv",
        "id,filepath,title,score,url\n"
        '7,photos/1.jpg,"a cat, asleep",0.25,http://a/b\n'
        "8,photos/0.jpg,ein Kätzchen,1e-3,007\n"
        "9,photos/1.jpg,a pet,9,\n",
    )
    source = folder_source(path)
    assert isinstance(source, Source) and len(source) == 2 and source.class_names == []
    assert source[0] == {
        "key": "photos/1.jpg",
        "image": b"1",
        "captions": ["a cat, asleep", "a pet"],
        "label": -1,
        "labels": [],
        "fields": {"id": [7, 9], "score": [0.25, 9], "url": ["http://a/b", ""]},
    }
    assert source[1]["captions"] == ["ein Kätzchen"]
    assert source[1]["fields"] == {"id": 8, "score": 0.001, "url": "007"}
    assert source.shard(1) == path


def test_questions_in_rows_of_their_own_or_in_cells(photos):
    table = (
        "image,questions,answers,split\n"
        "photos/1.jpg,how many?,2,train\n"
        "photos/1.jpg,is it red?,yes,train\n"
        'photos/0.jpg,"[""what?"", ""where?""]","[""a cat"", ""left""]",train\n'
        "photos/2.jpg,is it?,yes,train\n"
        "photos/2.jpg,was it?,yes,train\n"
    )
    records = [*folder_source(photos("vqa.csv", table))]
    assert [record["fields"]["split"] for record in records] == ["train"] * 3
    make = CaptionMaker(captions="questions")
    rng = np.random.default_rng(0)
    found = [{make(record, 0, rng).text for _ in range(20)} for record in records]
    assert found == [
        {"how many? 2", "is it red? yes"},
        {"what? a cat", "where? left"},
        {"is it? yes", "was it? yes"},
    ]
    asked = questions_of(
        {"image": [None] * 3, "fields": [r["fields"] for r in records]}, *QUESTIONS
    )
    assert [(q.text, q.given) for q in asked] == [
        ("how many?", ("2",)),
        ("is it red?", ("yes",)),
        ("what?", ("a cat",)),
        ("where?", ("left",)),
        ("is it?", ("yes",)),
        ("was it?", ("yes",)),
    ]


def test_filters_and_templates_of_several_rows(photos):
    table = (
        "image,caption,title,score\n"
        "photos/1.jpg,a cat,One,0.9\n"
        "photos/1.jpg,a pet,Two,0.1\n"
        "photos/0.jpg,a dog,Three,0.9\n"
    )
    both, dog = folder_source(photos("a.csv", table))
    rng = np.random.default_rng(0)
    make = CaptionMaker(template="{title}. {caption}")
    assert {make(both, 0, rng).text for _ in range(20)} == {"One. a cat", "Two. a pet"}
    strict = CaptionMaker(filters=(("score", ">=", 0.5),))
    assert strict(dog, 0, rng).text == "a dog"
    with pytest.raises(BadExample, match="filtered_field"):
        strict(both, 0, rng)


def test_a_row_without_a_caption_leaves_the_others_theirs(photos):
    table = (
        "image,caption,city,wrong\nphotos/0.jpg,a dog,T0,a cat\nphotos/0.jpg,,T1,a bird\n"
        "photos/0.jpg,a pup,T2,a fox\n"
    )
    (found,) = folder_source(photos("a.csv", table))
    make = CaptionMaker(template="{city}. {caption}", negatives="wrong")
    texts = [make(found, 0, np.random.default_rng(seed)) for seed in range(20)]
    assert {(text.text, text.negative) for text in texts} == {
        ("T0. a dog", "T0. a cat"),
        ("T2. a pup", "T2. a fox"),
    }


def test_captions_are_of_no_row_where_one_has_several(photos):
    rows = [
        {"image": "photos/0.jpg", "caption": ["a", "b"], "city": "X"},
        {"image": "photos/0.jpg", "caption": None, "city": "Y"},
    ]
    (found,) = folder_source(photos("a.jsonl", "\n".join(map(json.dumps, rows))))
    with pytest.raises(BadExample, match="lacks 'city'"):
        CaptionMaker(template="{city}. {caption}")(found, 0, np.random.default_rng(0))
    assert CaptionMaker(captions="all")(found, 1, np.random.default_rng(0)).text == "b"


def test_a_column_without_a_value_hides_no_other(photos):
    table = "image,caption,text,label\nphotos/0.jpg,nan,a cat,NA\nphotos/1.jpg,a dog,x,3\n"
    first, second = folder_source(photos("a.csv", table))
    assert (first["captions"], first["labels"], first["label"]) == (["a cat"], [], -1)
    assert (second["captions"], second["label"]) == (["a dog"], 3)
    assert second["fields"] == {"text": "x"}


def test_a_folder_with_one_table(photos, tmp_path):
    rows = [
        {"file_name": "photos/2.jpg", "captions": ["a", "", "b"], "labels": ["cat", "pet"], "n": 1},
        {"file_name": str(tmp_path / "photos/0.jpg"), "captions": None, "labels": 1, "n": "1"},
    ]
    photos("metadata.jsonl", "\n".join(json.dumps(row) for row in rows))
    source = folder_source(str(tmp_path))
    assert source[0] == {
        "key": "photos/2.jpg",
        "image": b"2",
        "captions": ["a", "", "b"],
        "label": -1,
        "labels": ["cat", "pet"],
        "fields": {"n": 1},
    }
    source.class_names = ["dog", "cat"]
    assert source[1]["label"] == 1 and source[1]["labels"] == ["cat"]
    assert source[1]["captions"] == [] and source[1]["fields"] == {"n": "1"}


def test_labels_of_a_table(photos):
    source = folder_source(photos("a.csv", "image,label\nphotos/0.jpg,1\nphotos/1.jpg,cow\n"))
    assert [(source[i]["label"], source[i]["labels"]) for i in (0, 1)] == [(1, []), (-1, ["cow"])]
    source.class_names = ["cow", "dog"]
    assert [(source[i]["label"], source[i]["labels"]) for i in (0, 1)] == [
        (1, ["dog"]),
        (0, ["cow"]),
    ]


def test_a_folder_for_each_class(tmp_path):
    images = {"dog": ["b.JPEG", "a.png"], "cat [small]": ["é.webp"], "empty": [], "emu": ["a.jpg"]}
    for name, files in images.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(f"{name}/{file}".encode())
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    source = folder_source(str(tmp_path))
    assert isinstance(source, Source)
    assert source.class_names == ["cat [small]", "dog", "empty", "emu"]
    found = [
        (source[i]["image"].decode(), source[i]["label"], source[i]["labels"]) for i in range(4)
    ]
    assert found == [
        ("cat [small]/é.webp", 0, ["cat [small]"]),
        ("dog/a.png", 1, ["dog"]),
        ("dog/b.JPEG", 1, ["dog"]),
        ("emu/a.jpg", 3, ["emu"]),
    ]
    assert source.shard(3) == str(tmp_path / "emu")
    assert source[1]["captions"] == [] and source[1]["fields"] == {"file_name": "a.png"}


def test_images_that_are_not_there_are_found_when_read(photos):
    source = folder_source(photos("a.csv", "image,text\nphotos/0.jpg,a\nnowhere.jpg,b\n,c\n"))
    assert len(source) == 3 and source[0]["image"] == b"0"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        source[1]
    with pytest.raises(BadExample, match="path of the image is ''"):
        source[2]


def test_urls(photos):
    root = f"memory://{uuid.uuid4()}"
    texts = {"a.csv": f"image,text\nx/0.jpg,a\n{root}/1.jpg,b\n", "x/0.jpg": "0", "1.jpg": "1"}
    for name, text in texts.items():
        with fsspec.open(f"{root}/{name}", "w") as file:
            file.write(text)
    source = folder_source(f"{root}/a.csv")
    assert [source[i]["image"] for i in (0, 1)] == [b"0", b"1"]
    with pytest.raises(UserError, match=r"should be a file.*only local folders are searched"):
        folder_source(root)


def test_what_is_no_such_folder_is_said(photos, tmp_path):
    with pytest.raises(UserError, match="nowhere is neither a folder nor a file"):
        folder_source(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds neither a table \(\.csv, .* nor folders"):
        folder_source(str(tmp_path / "empty"))
    photos("a.csv", "image,text\n")
    with pytest.raises(UserError, match=r"a\.csv holds no rows"):
        folder_source(str(tmp_path))
    photos("b.jsonl", "")
    with pytest.raises(UserError, match=r"several tables, a\.csv, b\.jsonl"):
        folder_source(str(tmp_path))
    path = photos("c.csv", "img,caption\na,b\n")
    with pytest.raises(UserError, match=r"image, .*file_name, .*; it has img, caption"):
        folder_source(path)


def test_several_pictures_of_a_record(photos, tmp_path):
    (tmp_path / "photos/notes.txt").write_bytes(b"no picture")
    path = photos(
        "pairs.jsonl",
        '{"images": ["photos/1.jpg", "photos/0.jpg"], "statements": ["both are cats"]}\n'
        '{"images": ["photos/1.jpg", "photos/2.jpg"], "statements": []}\n',
    )
    source = folder_source(path)
    assert [record["image"] for record in source] == [[b"1", b"0"], [b"1", b"2"]]
    assert source[0]["fields"] == {"statements": ["both are cats"]}
    frames = photos("clips.csv", "video,caption\nphotos,three cats\nphotos/1.jpg,one\n")
    assert [record["image"] for record in folder_source(frames)] == [[b"0", b"1", b"2"], b"1"]


def test_videos_in_folders_of_classes(tmp_path):
    for name in ("run/a.mp4", "run/b.avi", "sit/c.MP4", "sit/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    source = folder_source(str(tmp_path))
    assert source.class_names == ["run", "sit"]
    assert [(r["image"], r["label"]) for r in source] == [
        (b"run/a.mp4", 0),
        (b"run/b.avi", 0),
        (b"sit/c.MP4", 1),
    ]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    clip = tmp_path / "classes/jump/clip 1"
    clip.mkdir(parents=True)
    for name in ("10", "9", "img_2", "img_10", "1", "0011"):
        (clip / f"{name}.jpg").write_text(name)
    (tmp_path / "classes/jump/a.jpg").write_text("alone")
    (tmp_path / "classes/jump/empty").mkdir()
    (tmp_path / "classes/run/b.avi").mkdir(parents=True)  # frames of it
    (tmp_path / "classes/run/b.avi/1.png").write_text("b")
    source = folder_source(str(tmp_path / "classes"), clips=True)
    assert source.class_names == ["jump", "run"] and len(source) == 3
    assert source[0]["image"] == b"alone"
    assert source[1]["image"] == [b"1", b"9", b"10", b"0011", b"img_2", b"img_10"]
    assert (source[2]["image"], source[2]["label"]) == ([b"b"], 1)
    assert source[1]["label"] == 0 and source[1]["fields"] == {"file_name": "clip 1"}


def noted(source):
    return {note.kind: (note.count, note.lost) for note in source.notes}


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_images_at_any_depth_are_of_their_class(tmp_path):
    write(tmp_path, "cat/a.jpg", "cat/more/b.JPG", "cat/more/most/c.jfif", "dog/x/d.jpg")
    source = folder_source(str(tmp_path))
    found = [(record["image"].decode(), record["label"]) for record in source]
    assert found == [
        ("cat/a.jpg", 0),
        ("cat/more/b.JPG", 0),
        ("cat/more/most/c.jfif", 0),
        ("dog/x/d.jpg", 1),
    ]
    assert source[1]["fields"] == {"file_name": "more/b.JPG"}
    assert noted(source) == {"classes": (2, False), "deeper": (3, False)}
    assert "4 examples of 2 classes" in source.notes[0].text
    clips = folder_source(str(tmp_path), clips=True)
    assert [record["label"] for record in clips] == [0, 0, 0, 1]
    assert clips[3]["image"] == [b"dog/x/d.jpg"]
    assert noted(clips) == {"classes": (2, False), "clips": (3, False)}


def test_what_is_not_read_of_class_folders_is_noted(tmp_path):
    write(tmp_path, "cat/a.jpg", "cat/._a.jpg", "cat/.x/b.jpg", "cat/Thumbs.db", "dog/@eaDir/b.jpg")
    write(tmp_path, ".ipynb_checkpoints/c.jpg", "__MACOSX/cat/._a.jpg", "._metadata.csv")
    write(tmp_path, "cat/b.heic", "cat/notes.txt", "stray.png")
    (tmp_path / "cat/back").symlink_to(tmp_path)
    (tmp_path / "cat/itself").symlink_to(tmp_path / "cat/itself")
    source = folder_source(str(tmp_path))
    assert source.class_names == ["cat", "dog"]
    assert [record["image"] for record in source] == [b"cat/a.jpg"]
    assert noted(source) == {
        "classes": (2, False),
        "hidden": (7, False),
        "loops": (1, False),
        "beside": (1, True),
        "other_files": (3, True),
    }
    texts = " ".join(note.text for note in source.notes)
    for part in ("1 folder holds none: dog", "'stray.png'", ".heic (1)", ".txt (1)"):
        assert part in texts


def test_a_link_to_a_folder_above_is_followed_once(tmp_path):
    write(tmp_path, "cat/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cat").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/other").symlink_to(tmp_path / "elsewhere")
    source = folder_source(str(tmp_path / "root"))
    assert [record["image"] for record in source] == [b"cat/a.jpg", b"elsewhere/b.jpg"]
    assert noted(source)["loops"] == (1, False)


def test_parts_of_a_data_set_are_not_classes(tmp_path):
    write(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "Test/dog/c.jpg", ".cache/x.jpg")
    source = folder_source(str(tmp_path), "train")
    assert source.class_names == ["cat", "dog"] and len(source) == 2
    assert "train is read, the others (Test) are not" in source.notes[0].text
    for split in ("", "val", "train[:50%]"):
        with pytest.raises(UserError, match=r"holds the splits Test, train, and split="):
            folder_source(str(tmp_path), split)
    # A class may have such a name, among others.
    write(tmp_path, "bus/d.jpg")
    assert folder_source(str(tmp_path), "train").class_names == ["Test", "bus", "train"]


def test_a_table_in_a_part_of_a_data_set(tmp_path):
    write(tmp_path, "train/a.jpg", "test/b.jpg", "train/._metadata.csv", "train/.x/metadata.csv")
    (tmp_path / "train/metadata.CSV").write_text("file_name,text\na.jpg,a cat\n")
    source = folder_source(str(tmp_path), "train")
    assert source[0]["captions"] == ["a cat"] and noted(source)["rows"] == (1, False)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.parquet", "coca data convert"), ("a.tar", "format=webdataset"), ("a.xlsx", "as .csv")],
)
def test_files_of_other_formats_are_said_to_be(tmp_path, name, hint):
    write(tmp_path, name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=hint):
            folder_source(str(path))


def test_captions_that_are_no_text(photos):
    values = ["a cat", math.nan, True, {"en": "x"}, ["a", 5], ["a", None, ""], "  ", 7, [["a"]]]
    rows = [{"image": f"photos/{i % 3}.jpg#{i}", "caption": v} for i, v in enumerate(values)]
    for row in rows:
        row["image"] = str(photos(row["image"].replace("/", "-"), "x"))
    source = folder_source(photos("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert [record["captions"] for record in source] == [
        *(["a cat"], [], [], [], ["a", ""], ["a", "", ""], [], [], []),
    ]
    reasons = [record.get("no_text", "") for record in source]
    assert [bool(reason) for reason in reasons] == [0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert reasons[3] == "{'en': 'x'} is not text"


def test_words_for_no_value_in_files_without_types(photos):
    words = ["nan", "NaN", "None", "null", "<NA>", "N/A", "", '""', "a nan", "nans"]
    rows = "".join(f"photos/0.jpg?{i},{word}\n" for i, word in enumerate(words))
    for i in range(len(words)):
        photos(f"photos/0.jpg?{i}", "x")
    captions = [
        record["captions"] for record in folder_source(photos("a.csv", "image,text\n" + rows))
    ]
    assert captions == [[]] * 8 + [["a nan"], ["nans"]]


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        (r'["a \"b\"", "c"]', ['a "b"', "c"]),
        (repr(["a", "it's"]), ["a", "it's"]),
        ("['a' 'b']", ["['a' 'b']"]),  # numpy's
        ("[1, 2]", ["[1, 2]"]),
        ("[red, blue]", ["[red, blue]"]),
        ("[]", []),
    ],
)
def test_lists_in_cells(photos, tmp_path, cell, captions):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "text"), ("photos/0.jpg", cell)])
    assert folder_source(str(tmp_path / "a.csv"))[0]["captions"] == captions


def test_paths_in_cells(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cells = ["photos\\1.jpg", " photos/1.jpg ", "~/photos/1.jpg", f"file://{tmp_path}/photos/1.jpg"]
    cells += [f"{tmp_path}/photos/1.jpg", ".\\photos\\1.jpg"]
    path = photos("a.csv", "image,text\n" + "".join(f"{cell},x\n" for cell in cells))
    assert [record["image"] for record in folder_source(path)] == [b"1"] * len(cells)
    photos("photos\\1.jpg", "itself")
    assert folder_source(path)[0]["image"] == b"itself"


def test_how_a_table_was_read_is_noted(photos):
    path = photos("a.csv", "Image;TITLE;label\nphotos/0.jpg;a;1\nphotos/0.jpg;b;1\nc\n")
    first, second = folder_source(path).notes
    assert not first.lost and second.lost and (second.kind, second.count) == ("wrong_count", 1)
    for part in ("3 rows", "2 records", "'Image'", "'TITLE'", "'label'", "separated by ';'"):
        assert part in first.text
    assert "line 4" in second.text


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path, "cat/a.jpg", "cat/closed/b.jpg")
    scan = os.scandir

    def closed(path):
        if path.endswith("closed"):  # for a user who may read everything, too
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"cat/closed cannot be read: .*Permission denied"):
        folder_source(str(tmp_path))


@pytest.mark.parametrize("path", ["a\0.jpg", "\ud800.jpg", " ", "file://host/a.jpg", "nothing://a"])
def test_what_no_file_can_be_called_is_a_bad_record(photos, path):
    source = folder_source(photos("t.jsonl", json.dumps({"image": path}) + '\n{"image": "b"}'))
    with pytest.raises(BadExample, match="the path of the image is") as error:
        source[0]
    assert error.value.kind == "bad_record"


def test_labels_that_are_none_are_bad_records(photos):
    rows = [{"image": f"photos/{i}.jpg", "labels": [{"id": i}, {"id": i}, [3]]} for i in range(2)]
    source = folder_source(photos("t.jsonl", "\n".join(map(json.dumps, rows))))
    with pytest.raises(BadExample, match=r"the label is {'id': 1}; it should be"):
        source[1]
