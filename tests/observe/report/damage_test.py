"""A page of damaged files is written of the rest, and names what is left out."""

import copy
import json

import pytest

from coca_jax.errors import UserError
from coca_jax.io.stored import are_metrics, fits
from coca_jax.observe.report import write_report
from coca_jax.observe.report.artifacts import is_drawable
from coca_jax.observe.report.sweep import are_results

SAMPLE = {
    "image": "a.jpg",
    "caption": "a cube",
    "log_probability": -1.5,
    "references": ["one"],
    "exact": True,
    "attention": [{"word": "a", "map": [[0.5, None], [0.1, 0.2]]}],
}
CONTENT = {
    "config.json": {"config": {"seed": 0, "train": {"steps": 9}}, "commit": "c", "versions": {}},
    "goodput.json": [
        {"began": 1.0, "first_step": 0, "last_step": 5, "seconds": {"step": 2.0, "data": 1.0}},
        {"began": 9.0, "first_step": 4, "last_step": 9, "seconds": {"step": 2.0}},
    ],
    "eval/9.json": {"a": {"top1": 0.5, "cider": None, "notes": {"cider": "one image"}}},
    "eval/9/artifacts.json": {
        "a": {"samples": [SAMPLE]},
        "b": {"class_names": ["x", "y"], "confusion": [[1, 2], [3, 4]]},
        "c": {
            "text_to_image": [
                {"text": "t", "items": [{"image": "a.jpg", "right": True, "score": 0.5}]}
            ],
            "image_to_text": [
                {"image": "a.jpg", "items": [{"text": "t", "right": False, "score": 0.1}]}
            ],
        },
        "d": {"confused": [{"label": "x", "prediction": "y", "count": 1, "of": 2}]},
        "e": {
            "questions": [
                {"image": "a.jpg", "question": "q", "answer": "a", "given": "g", "accuracy": 1.0}
            ]
        },
    },
}
LINES = [
    {"step": 4, "train/loss": 1.0, "train/examples_seen": 8.0, "eval/a/top1": 0.4},
    {"step": 9, "train/loss": None, "train/examples_seen": 18.0},
]
RESULTS = {
    "metrics": ["r1"],
    "steps": {"s": 5},
    "tables": {"t": ["one"]},
    "rows": {
        "one": {
            "changes": [["seed", 1]],
            "seeds": {
                "0": {
                    **{"r1": 0.5, "step_seconds": 0.1, "flops": 3, "training_flops": 9},
                    "steps": {"s": 5},
                }
            },
        }
    },
}
OTHER = (None, -1, [], {}, "text", True, {"a": [None]}, 1e308)
WHOLE = (b"", b"{", b"\xff\xfe", b"[]", b"null", b"5", b"[" * 50_000, b'{"a": 1, "a": 2}')


def write(workdir):
    (workdir / "eval/9").mkdir(parents=True)
    (workdir / "eval/9/a.jpg").write_bytes(b"\xff\xd8")
    for name, content in CONTENT.items():
        (workdir / name).write_text(json.dumps(content))


def places(value, path=()):
    """The path of keys to every value within one."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    found = copy.deepcopy(value)
    node = found
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = new
    return found


def removed(value, path):
    found = copy.deepcopy(value)
    node = found
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return found


def variants(content):
    """The content with each of its values replaced by others, and removed."""
    for path in places(content):
        yield from (changed(content, path, new) for new in OTHER)
        if path:
            yield removed(content, path)


def drawn(workdir):
    """Whether a page is written; else a UserError names the file."""
    try:
        return "</html>" in write_report(workdir).read_text()
    except UserError as error:
        assert str(workdir) in str(error)
        return False


@pytest.mark.parametrize("name", ["config.json", "eval/9.json"])
def test_any_value_of_any_file_may_be_another(tmp_path, name, capsys):
    write(tmp_path)
    (tmp_path / "eval/9/artifacts.json").unlink()  # a small page is soon drawn
    for content in variants(CONTENT[name]):
        (tmp_path / name).write_text(json.dumps(content))
        assert drawn(tmp_path) or name == "config.json"


@pytest.mark.parametrize("evaluation", "abcde")
def test_any_value_of_the_artifacts_may_be_another(tmp_path, evaluation):
    write(tmp_path)
    path = tmp_path / "eval/9/artifacts.json"
    taken = 0
    for content in variants(json.loads(path.read_text())[evaluation]):
        if is_drawable(content):  # most are not, and are left out
            path.write_text(json.dumps({evaluation: content}))
            assert drawn(tmp_path)
            taken += 1
    assert taken


@pytest.mark.parametrize("data", WHOLE)
@pytest.mark.parametrize("name", [*CONTENT, "metrics.jsonl"])
def test_any_file_may_be_another(tmp_path, name, data, capsys):
    write(tmp_path)
    (tmp_path / name).write_bytes(data)
    assert drawn(tmp_path) is (name != "config.json")
    if name not in ("config.json", "metrics.jsonl") and (name, data) != ("goodput.json", b"[]"):
        assert f"warning: {tmp_path / name} " in capsys.readouterr().err


@pytest.mark.parametrize("new", ["null", '"x"', "true", "-1", "1e400", "[]", "1" * 400])
def test_lines_of_metrics_that_are_none_are_counted(tmp_path, new, capsys):
    write(tmp_path)
    for key in LINES[0]:
        line = json.dumps(LINES[0]).replace(json.dumps(LINES[0][key]), new, 1)
        (tmp_path / "metrics.jsonl").write_text(line + "\n" + json.dumps(LINES[1]) + "\n")
        assert drawn(tmp_path)


def test_what_is_lost_is_named(tmp_path, capsys):
    write(tmp_path)
    bad = changed(CONTENT["eval/9/artifacts.json"], ("a", "samples", 0, "exact"), "yes")
    (tmp_path / "eval/9/artifacts.json").write_text(json.dumps(bad))
    (tmp_path / "metrics.jsonl").write_text('{"step": null}\n{"step": 1, "train/loss": 2.0}\n')
    assert drawn(tmp_path)
    said = capsys.readouterr().err
    assert "artifacts.json has damaged evaluations, which are left out: a" in said
    assert "metrics.jsonl has 1 damaged line, such as line 1" in said


def test_a_copy_stands_in_for_a_damaged_configuration(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    page = write_report(tmp_path, {"train": {"steps": 77}}).read_text()
    assert "of 77" in page
    assert "the copy in the newest checkpoint is shown" in capsys.readouterr().err


def test_any_value_of_a_sweep_may_be_another(tmp_path):
    for content in variants(RESULTS):
        (tmp_path / "compare.json").write_text(json.dumps(content))
        assert drawn(tmp_path) is are_results(content)
    (tmp_path / "compare.json").write_text(json.dumps(RESULTS))
    assert drawn(tmp_path)


def test_what_is_written_is_taken():
    artifacts = CONTENT["eval/9/artifacts.json"]
    assert all(is_drawable(content) for content in artifacts.values())
    assert are_metrics(CONTENT["eval/9.json"]["a"]) and are_results(RESULTS)
    assert not fits({"a": 1}, {"a": int, "b": str}) and fits([1, None], [(int, None)])
