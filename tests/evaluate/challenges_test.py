"""Result files: scores as recorded from pycocoevalcap with its own tokenizer, and wrong files."""

import json
import math
import pathlib
import shutil

import pytest

from coca_jax import cli
from coca_jax.errors import UserError
from coca_jax.evaluate.challenges import score_results
from coca_jax.evaluate.metrics.undefined import defined, reasons

HERE = pathlib.Path(__file__).parent.parent / "fixtures/coco"
ANNOTATIONS, RESULTS = HERE / "annotations.json", HERE / "results.json"


def test_scores_are_those_recorded(tmp_path, capsys):
    recorded = json.loads((HERE / "scores.json").read_text())
    del recorded["meteor"]
    scores = score_results(ANNOTATIONS, RESULTS)
    assert "no java" in reasons(scores)["meteor"]
    assert defined(scores) == pytest.approx(recorded, rel=1e-12)
    words = ["--annotations", str(ANNOTATIONS), "--results", str(RESULTS)]
    assert cli.main(["score", *words, "--json", str(tmp_path / "scores.json")]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written.items() >= defined(scores).items()
    assert "0.8556" in capsys.readouterr().out


@pytest.mark.slow  # Java reads METEOR's tables for seven seconds
@pytest.mark.meteor
@pytest.mark.skipif(not shutil.which("java"), reason="METEOR needs Java")
def test_meteor_is_that_recorded():
    recorded = json.loads((HERE / "scores.json").read_text())
    assert score_results(ANNOTATIONS, RESULTS) == pytest.approx(recorded, rel=1e-12)


def written(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "1 id of images is missing: 10"),
        (lambda rows: [*rows, {"image_id": 1, "caption": "a"}], "has no annotation: 1"),
        (lambda rows: rows * 2, "20 ids of images are duplicated: 10, 13, 16, 19, 22, ..."),
        (lambda rows: [{"image": 1}], "number 0 of rows needs image_id, caption; it has image"),
        (lambda rows: {"a": 1}, "should be a list"),
        (lambda rows: [1], "number 0 of rows needs image_id, caption; it has 1"),
        (lambda rows: [{"image_id": [1], "caption": "a"}], "image_id should be a number or a text"),
        (lambda rows: [{"image_id": 10, "caption": None}], "number 0 of rows: caption should be"),
        (
            lambda rows: [{"image_id": 10, "captions": [{"caption": "a"}, {"caption": "b"}]}],
            "has several captions of each: results are to have one `caption`",
        ),
        (lambda rows: "[", "file.json cannot be read: Expecting value: line 1"),
    ],
)
def test_results_that_are_wrong(tmp_path, capsys, change, message):
    path = written(tmp_path, change(json.loads(RESULTS.read_text())))
    words = ["score", "--annotations", str(ANNOTATIONS), "--results", str(path)]
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_encodings(tmp_path, encoding):
    paths = tmp_path / "annotations.json", tmp_path / "results.json"
    for path, source in zip(paths, (ANNOTATIONS, RESULTS), strict=True):
        path.write_bytes(source.read_text(encoding="utf-8").encode(encoding))
    assert score_results(*paths) == score_results(ANNOTATIONS, RESULTS)


HALF = "half of a surrogate pair"
OTHERS = [{"image_id": i, "caption": "a dog"} for i in (1, 2)]
KARPATHY = [{"cocoid": i, "split": "test", "sentences": [{"raw": "a dog"}]} for i in (1, 2)]


@pytest.mark.parametrize(
    ("images", "results", "message"),
    [
        (KARPATHY, [OTHERS[0], OTHERS[1] | {"caption": "a \ud800"}], f"{HALF}, which .*: 2"),
        (
            [KARPATHY[0], KARPATHY[1] | {"sentences": [{"raw": "a"}, {"raw": "\udfff"}]}],
            OTHERS,
            f"1 id has captions with {HALF}, which .*: 2",
        ),
        ([KARPATHY[0], KARPATHY[1] | {"sentences": []}], OTHERS, "1 id has no captions: 2"),
        (KARPATHY, [], "2 ids of images are missing: 1, 2"),
        (KARPATHY, OTHERS * 2, "2 ids of images are duplicated: 1, 2"),
        (KARPATHY, [*OTHERS, {"image_id": "2", "caption": "a"}], "duplicated: 2"),
        (KARPATHY, [*OTHERS, {"image_id": math.nan, "caption": "a"}], "image_id should be a num"),
        (KARPATHY, [*OTHERS, {"image_id": "\ud800", "caption": "a"}], "has no annotation: "),
        (KARPATHY, [OTHERS[0] | {"caption": 5}], "caption should be a text; it is 5"),
        (KARPATHY, [None], "number 0 of rows needs image_id, caption; it has None"),
        ([{"cocoid": 1, "split": "test", "sentences": None}], OTHERS, "should be a list"),
    ],
)
def test_files_of_captions_that_are_wrong(tmp_path, images, results, message):
    annotations, path = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps({"images": images}))
    path.write_text(json.dumps(results))
    with pytest.raises(UserError, match=message):
        score_results(annotations, path)


def test_what_is_undefined_is_said_in_the_table_and_in_json(tmp_path, capsys):
    annotations, path = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps({"images": KARPATHY[:1]}))
    path.write_text(json.dumps(OTHERS[:1]))
    words = ["score", "--annotations", str(annotations), "--results", str(path)]
    assert cli.main([*words, "--json", str(tmp_path / "scores.json")]) == 0
    out, scores = capsys.readouterr().out, json.loads((tmp_path / "scores.json").read_text())
    assert scores["cider"] is None and scores["meteor"] is None and scores["rouge_l"] == 1
    for name in ("cider", "meteor"):
        assert f"{name} is undefined: {scores['notes'][name]}" in out


def test_ids_may_be_written_as_text(tmp_path):
    rows = json.loads(RESULTS.read_text())
    path = written(tmp_path, [row | {"image_id": str(row["image_id"])} for row in rows])
    assert score_results(ANNOTATIONS, path) == score_results(ANNOTATIONS, RESULTS)


def test_captions_of_videos(tmp_path, capsys):
    annotations = tmp_path / "test_videodatainfo.json"
    texts = ["a man is singing a song", "two dogs run in the snow", "a train leaves"]
    content = {
        "info": {"year": "2016"},
        "videos": [
            {"video_id": f"video{i}", "category": 9, "split": "test", "id": i} for i in range(3)
        ],
        "sentences": [
            {"caption": text, "video_id": f"video{i}", "sen_id": i} for i, text in enumerate(texts)
        ],
    }
    annotations.write_text(json.dumps(content))
    for key in ("image_id", "video_id"):
        rows = [{key: f"video{i}", "caption": text} for i, text in enumerate(texts)]
        found = score_results(annotations, written(tmp_path, rows), "test")
        assert found["bleu4"] == pytest.approx(1, rel=1e-6)
        assert found["rouge_l"] == pytest.approx(1)
    words = ["--annotations", str(annotations), "--results", str(written(tmp_path, rows[1:]))]
    assert cli.main(["score", *words]) == 2
    assert "1 id of images is missing: video0" in capsys.readouterr().err
    assert cli.main(["score", *words, "--split", "validate"]) == 2
    assert "has no captions of split 'validate'" in capsys.readouterr().err


ANSWERS = {
    "annotations": [
        {
            "question_id": 10 + i,
            "image_id": i,
            "answer_type": kind,
            "question_type": "what",
            "multiple_choice_answer": given[0],
            "answers": [
                {"answer": a, "answer_confidence": "yes", "answer_id": n}
                for n, a in enumerate(given, 1)
            ],
        }
        for i, (kind, given) in enumerate(
            [
                ("yes/no", ["yes"] * 7 + ["no"] * 3),
                ("number", ["2"] * 9 + ["two dogs"]),
                ("other", ["red"] * 2 + ["blue"] * 8),
            ]
        )
    ],
    "data_type": "mscoco",
    "data_subtype": "val2014",
}


def test_answers_by_hand(tmp_path, capsys):
    annotations, results = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps(ANSWERS))
    rows = [(10, "No."), (11, "two"), (12, "the red")]
    results.write_text(json.dumps([{"question_id": q, "answer": a} for q, a in rows]))
    assert score_results(annotations, results) == pytest.approx(
        {
            # Of ten, one left out: three said no, so it is 2/3 three times and 1 seven times.
            "accuracy": (0.9 + 1 + 0.6) / 3,
            "accuracy_yes_no": 0.9,
            "accuracy_number": 1.0,
            "accuracy_other": 0.6,  # two said red: 1/3 twice, 2/3 eight times
            "count": 3,
        }
    )
    words = ["score", "--annotations", str(annotations), "--results", str(results)]
    assert cli.main(words) == 0 and "accuracy_yes_no" in capsys.readouterr().out
    assert cli.main([*words, "--split", "val"]) == 2
    results.write_text(json.dumps([{"question_id": q, "answer": "a"} for q in (10, 11, 13)]))
    assert cli.main(words) == 2
    assert "1 id of questions has no annotation: 13" in capsys.readouterr().err
