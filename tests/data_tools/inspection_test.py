import itertools
import json
import types

import broken_data
import cv2
import numpy as np
import pytest

from coca_jax import cli
from coca_jax.config import default_config
from coca_jax.data.exclude_list import write_list
from coca_jax.data.sources import Note
from coca_jax.data.sources.tfds import TfdsSource
from coca_jax.data.tokenizers.byte import ByteTokenizer
from coca_jax.data.tokenizers.clip_bpe import ClipTokenizer
from coca_jax.data_tools.inspection import draw_sheet, format_inspection, inspect, lengths
from coca_jax.errors import UserError


def test_what_is_seen_is_what_is_there(tmp_path):
    broken_data.write(tmp_path)
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "{good,broken}.tar")})
    data.tokenizer.kind = "byte"
    sheet = tmp_path / "drawn/sheet.png"
    options = {"image_size": (16, 16), "text_length": 12, "seed": 0, "examples": 34}
    result = inspect(data, sheet=sheet, **options)
    faulty, odd = broken_data.broken(), broken_data.odd()
    whole = broken_data.GOOD + len(faulty) + len(odd)
    assert result["sources"] == {"train": {"records": whole, "share": 1.0, "passes": 1.0}}
    without_text = [kind for _, kind in faulty.values() if kind != "bad_image"]
    captions = result["captions"]
    assert captions["count"] == whole - len(without_text)
    # "picture 10" to "picture 23" are 10 bytes and two ends; longer ones are cut.
    longer = [text for text in ("a PNG named jpg",) if len(text) > 10]
    assert captions["truncated"] == pytest.approx(len(longer) / captions["count"])
    alone, *packed = captions["packing"]
    assert alone[:2] == (1, 12) and 0 < alone[2] < 1
    assert [row[0] for row in packed] == [2] and packed[0][1] <= 24
    assert sum(count for _, _, count in captions["histogram"]) == captions["count"]
    assert result["lost"] and [*result["notes"]["train"]] == ["without_text"]
    assert result["replaced"]["bad_image"] >= 3 and "broken.tar" in result["worst_shards"]
    assert "broken.tar: " in result["reasons"]["bad_image"]
    assert set(result["microseconds"]) == {"read", "caption", "decode", "augment", "tokenize"}
    drawn = cv2.imread(str(sheet))
    assert drawn is not None and min(drawn.shape[:2]) > 400 and drawn.std() > 20
    with pytest.raises(UserError, match="should be positive, not 0"):
        inspect(data, **options | {"examples": 0})
    text = format_inspection(result, 12)
    assert "bad_image" in text and "examples per second" in text and "broken.tar" in text
    assert f"bad_image, such as {result['reasons']['bad_image']}\n" in text


def test_what_the_tokenizer_loads_at_its_first_text_is_not_measured(tmp_path, monkeypatch):
    broken_data.write(tmp_path)
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "good.tar")})
    data.tokenizer.kind = "byte"
    encode, now, calls = ByteTokenizer.encode, itertools.count(), []

    def encode_slowly_at_first(*args):
        if not calls:
            [next(now) for _ in range(1000)]
        calls.append(args)
        return encode(*args)

    clock = types.SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr("coca_jax.data_tools.inspection.time", clock)
    monkeypatch.setattr(ByteTokenizer, "encode", encode_slowly_at_first)
    result = inspect(data, image_size=(4, 4), text_length=8, seed=0, examples=2)
    assert result["microseconds"]["tokenize"] == 1e6


def test_records_that_are_left_out_are_not_measured(tmp_path):
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    samples = [{"png": png, "txt": b"a" * length} for length in (3, 5, 30)]
    broken_data.write_tar(tmp_path / "a.tar", samples)
    write_list(tmp_path / "list.tsv", [(2, "copies", 0, 0)], {"records": 3})
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "a.tar")})
    data.train.exclude_list = str(tmp_path / "list.tsv")
    data.tokenizer.kind = "byte"
    result = inspect(data, image_size=(4, 4), text_length=8, seed=0, examples=3)
    assert result["captions"]["count"] == 2 and result["captions"]["truncated"] == 0
    assert "exclude_list" in result["reasons"]["filtered_duplicate"] and not result["lost"]


def test_data_without_a_usable_example_are_refused_with_their_notes(tmp_path):
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    broken_data.write_tar(tmp_path / "a.tar", [{"png": png}, {"txt": b"a cat"}])
    data = default_config().data
    data.train.update({"format": "webdataset", "path": str(tmp_path / "a.tar")})
    data.tokenizer.kind = "byte"
    with pytest.raises(UserError) as caught:
        inspect(data, image_size=(4, 4), text_length=8, seed=0, examples=1)
    first, *notes = str(caught.value).splitlines()
    assert "no caption" in first
    assert any(note.startswith("1 sample has no image, such as 00001 of") for note in notes)


def test_what_a_head_is_to_say_is_counted(tmp_path):
    image = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    for number, name in enumerate(["cat"] * 8 + ["dog"] * 24):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.png").write_bytes(image)
    data = default_config().data
    data.train.update({"format": "folder", "path": str(tmp_path), "captions": "none"})
    data.tokenizer.kind = "byte"
    options = {"image_size": (4, 4), "text_length": 8, "seed": 0, "examples": 32}
    result = inspect(data, classes=("cat", "dog"), **options)
    assert result["classes"] == {"dog": 24, "cat": 8}
    assert "classes: dog 75.0%, cat 25.0%; of none: 0.0%" in format_inspection(result, 8)
    assert inspect(data, **options)["classes"] == {}
    with pytest.raises(UserError, match=r"head\.classes are 3"):
        inspect(data, classes=("cat", "dog", "bird"), **options)
    data.sources = {
        name: {"weight": 0.5, "use_labels": name == "known"} for name in ("known", "not")
    }
    result = inspect(data, classes=("cat", "dog"), **options)
    assert abs(result["classes"][""] - 16) <= 1 and sum(result["classes"].values()) == 32
    data.sources = {}
    data.train.use_labels = False
    with pytest.raises(UserError, match="use_labels"):
        inspect(data, classes=("cat", "dog"), **options)
    many = result | {"classes": {"": 10} | {f"c{i}": 1 for i in range(10)}}
    assert "c7 5.0%, and 2 more; of none: 50.0%" in format_inspection(many, 8)
    none = format_inspection(result | {"classes": {"": 3}}, 8)
    assert "classes: none; of none: 100.0%" in none


def test_the_command_shows_what_the_configurations_head_is_told(prepared, tmp_path, capsys):
    found = tmp_path / "found.json"
    words = ["--config", "configs/shapes_entailment.py:smoke", f"--config.data.dir={prepared}"]
    files = ["--sheet", str(tmp_path / "sheet.png"), "--json", str(found)]
    assert cli.main(["data", "inspect", *words, "--strict", "--examples", "32", *files]) == 0
    counts = json.loads(found.read_text())["classes"]
    assert sum(counts.values()) == 32
    assert abs(counts.pop("") - 8) <= 1  # a quarter are captions, which teach the head nothing
    assert counts.keys() == {"entailment", "neutral", "contradiction"}
    out = capsys.readouterr().out
    assert all(name in out for name in ("classes: ", *counts))


def test_strict_fails_where_a_reader_left_something_out(prepared, tmp_path, capsys, monkeypatch):
    notes = [Note("hidden", 3, "3 hidden files are skipped"), Note("odd", 2, "2 odd", lost=True)]
    monkeypatch.setattr(TfdsSource, "notes", notes)
    monkeypatch.setattr("coca_jax.data_tools.inspection.draw_sheet", lambda *_: None)
    words = ["--config", "configs/shapes.py:smoke", f"--config.data.dir={prepared}"]
    words += ["--examples", "32", "--sheet", str(tmp_path / "sheet.png")]
    assert cli.main(["data", "inspect", "--strict", *words]) == 5
    printed = capsys.readouterr()
    assert "train: 3 hidden files are skipped\ntrain: 2 odd\n" in printed.out
    assert "cannot be used in training" in printed.err
    monkeypatch.setattr(TfdsSource, "notes", notes[:1])
    assert cli.main(["data", "inspect", "--strict", *words]) == 0


def test_lengths_are_counted_with_the_ends():
    found = lengths(["ab", "abcd", "a" * 8], ByteTokenizer(), 6)
    assert found["tokens"]["median"] == 6 and found["characters"]["median"] == 4
    assert found["truncated"] == pytest.approx(1 / 3) and found["unknown"] == 0.0
    # CLIP pads with the id of a "!" within a word.
    assert lengths(["wow!", "!!"], ClipTokenizer(), 6)["tokens"]["median"] == 3.5
    assert lengths(["a<end_of_text>b"], ClipTokenizer(), 6)["tokens"]["median"] == 5
    assert lengths([], ByteTokenizer(), 6) == {"count": 0}


def test_any_caption_can_be_drawn(tmp_path):
    image = np.zeros((2, 4, 4, 3), np.uint8)
    draw_sheet(image, ["$x_{$ \\frac", ""], tmp_path / "sheet")
    assert (tmp_path / "sheet").stat().st_size > 1000
