import json
import math

import pytest

from coca_jax.evaluate import results
from coca_jax.evaluate.metrics.undefined import Undefined


def test_table():
    metrics = {"classes": {"top1": 0.51239, "count": 12345.0}, "search": {"r1": 1.0}}
    assert results.format_table(metrics).splitlines() == [
        "──────────────────────────",
        "evaluation  metric   value",
        "──────────────────────────",
        "classes     top1    0.5124",
        "            count   12,345",
        "──────────────────────────",
        "search      r1      1.0000",
        "──────────────────────────",
    ]


def test_metrics_that_are_undefined_are_null_with_the_reason(tmp_path):
    metrics = {"captions": {"cider": Undefined("one image"), "bleu4": 0.5}, "b": {"top1": 1.0}}
    *_, rule, note = results.format_table(metrics).splitlines()
    assert "captions    cider        -" in results.format_table(metrics)
    assert set(rule) == {"─"} and note == "captions.cider is undefined: one image"
    results.write_results(tmp_path, 3, metrics, {})
    expected = {"cider": None, "bleu4": 0.5, "notes": {"cider": "one image"}}
    assert results.read_step(tmp_path, 3) == {"captions": expected, "b": {"top1": 1.0}}
    results.write_results(tmp_path, 3, {"captions": {"cider": 1.5}}, {})
    assert results.read_step(tmp_path, 3)["captions"] == {"cider": 1.5}


def test_half_characters_of_other_peoples_files_stay_escapes(tmp_path):
    results.write_json([{"image_id": "é\ud800"}], tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == [
        {"image_id": "é\ud800"}
    ]


def test_results_are_valid_json_with_images_next_to_them(tmp_path):
    metrics = {"captions": {"cider": 1.25, "log_probability": -math.inf}}
    artifacts = {"captions": {"samples": [{"image": b"jpeg one"}, {"image": b"jpeg two"}]}}
    path = results.write_results(tmp_path, 300, metrics, artifacts)
    assert path == tmp_path / "eval/300.json"
    assert json.loads(path.read_text()) == {"captions": {"cider": 1.25, "log_probability": None}}
    folder = tmp_path / "eval/300"
    samples = json.loads((folder / "artifacts.json").read_text())["captions"]["samples"]
    assert [(folder / s["image"]).read_bytes() for s in samples] == [b"jpeg one", b"jpeg two"]


def test_an_evaluation_is_replaced_and_others_of_its_step_stay(tmp_path):
    files = {"results": [], "n_best": []}
    first = {"a": {"image": b"old"}, "ab": {"image": b"kept", "files": files}}
    results.write_results(tmp_path, 3, {"a": {"top1": 0.1}, "ab": {"r1": 0.2}}, first)
    again = {"a": {"image": b"new"}, "c": {"files": {"results": []}}}
    results.write_results(tmp_path, 3, {"a": {"top1": 0.5}}, again)
    assert results.read_step(tmp_path, 3) == {"a": {"top1": 0.5}, "ab": {"r1": 0.2}}
    folder = tmp_path / "eval/3"
    drawn = json.loads((folder / "artifacts.json").read_text())
    assert drawn.keys() == {"a", "ab", "c"}
    assert {p.read_bytes() for p in folder.glob("*.jpg")} == {b"new", b"kept"}
    results.write_results(tmp_path, 3, {}, {"ab": {"files": {"results": []}}})
    names = sorted(p.name for p in folder.glob("*.results.json"))
    assert names == ["ab.results.json", "c.results.json"]
    assert not list(folder.glob("*.n_best.json"))  # of an evaluation that has none any more
    assert [p.read_bytes() for p in folder.glob("*.jpg")] == [b"new"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "shapes", "templates": ["a {}"]}, ""),
        (
            {"name": "others", "templates": ["a {}"], "limit": 100},
            "warning: eval.a replaces a/top1 0.9941, which was measured with other options: "
            "limit: '(absent)' there, 100 now; name: 'shapes' there, 'others' now\n",
        ),
    ],
)
def test_results_of_other_options_are_not_replaced_silently(tmp_path, capsys, options, said):
    first = {"a": {"name": "shapes", "templates": ["a {}"]}, "b": {"limit": 1}}
    metrics = {"a": {"top1": 0.9941, "count": 8}, "b": {"r1": 0.5}}
    results.write_results(tmp_path, 3, metrics, {}, first)
    now = {"a": options, "b": {"limit": 2}}
    assert results.measured(tmp_path, 3, now) == (set() if said else {"a"})
    results.write_results(tmp_path, 3, {"a": {"top1": 0.1}}, {}, now)
    assert capsys.readouterr().err == said
    assert results.measured(tmp_path, 3, now) == {"a"}


def test_results_that_were_not_written_do_not_get_new_options(tmp_path, monkeypatch):
    before, now = {"a": {"limit": 1}}, {"a": {"limit": 2}}
    results.write_results(tmp_path, 3, {"a": {"top1": 0.9}}, {}, before)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(results, "_with_files", lambda *_: (_ for _ in ()).throw(OSError("full")))
        results.write_results(tmp_path, 3, {"a": {"top1": 0.1}}, {}, now)
    assert results.measured(tmp_path, 3, now) == set()


def test_results_without_options_count_and_are_replaced(tmp_path, capsys):
    results.write_results(tmp_path, 3, {"a": {"top1": 0.9}}, {})
    assert results.measured(tmp_path, 3, {"a": {"limit": 1}}) == {"a"}
    results.write_results(tmp_path, 3, {"a": {"top1": 0.1}}, {}, {"a": {"limit": 1}})
    assert capsys.readouterr().err == ""


def test_an_evaluation_named_as_the_file_of_artifacts(tmp_path):
    results.write_results(tmp_path, 3, {}, {"a": {"samples": [1]}})
    results.write_results(tmp_path, 3, {}, {"artifacts": {"samples": [2]}})
    drawn = json.loads((tmp_path / "eval/3/artifacts.json").read_text())
    assert drawn == {"a": {"samples": [1]}, "artifacts": {"samples": [2]}}


def test_damaged_results_are_begun_anew(tmp_path):
    (tmp_path / "eval/3").mkdir(parents=True)
    for file in ("3.json", "3/artifacts.json"):
        (tmp_path / "eval" / file).write_text("{")
    assert results.read_newest(tmp_path) == {}
    results.write_results(tmp_path, 3, {"a": {"top1": 0.5}}, {"a": {}})
    assert results.read_newest(tmp_path) == {"a": {"top1": 0.5}}
    (tmp_path / "eval/1000.json").write_text('{"a": {"top1": 1}}')  # as people write numbers
    assert results.read_newest(tmp_path) == {"a": {"top1": 1}}


def test_files_of_an_evaluation_are_files_of_their_own(tmp_path):
    files = {
        "results": [{"image_id": 7, "caption": "ein Kätzchen"}],
        "n_best": [{"image_id": 7, "captions": [{"caption": "a", "log_probability": -math.inf}]}],
    }
    results.write_results(tmp_path, 3, {}, {"captions": {"files": files, "samples": []}})
    written = tmp_path / "eval/3/captions.results.json"
    assert json.loads(written.read_text()) == files["results"]  # as the COCO server takes it
    (row,) = json.loads((tmp_path / "eval/3/captions.n_best.json").read_text())
    assert row["captions"] == [{"caption": "a", "log_probability": None}]
    assert json.loads((tmp_path / "eval/3/artifacts.json").read_text()) == {
        "captions": {"samples": []}
    }


def test_a_list_of_numbers_is_one_line(tmp_path):
    value = {"map": [[0.5, 1e-05], [-3, 2]], "words": ["[ 1, 2 ]", "[\n1,\n2\n]"], "none": []}
    results.write_json(value, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert "  [ 0.5, 1e-05 ],\n  [ -3, 2 ]\n" in text
