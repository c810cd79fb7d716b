import base64
import html.parser
import json
import subprocess
import sys

import pytest

from coca_jax.evaluate.results import write_results
from coca_jax.evaluate.undefined import Undefined
from coca_jax.observe.report import write_report
from coca_jax.observe.writers import MetricWriter

PICTURE = b"\xff\xd8 not really a JPEG file"
VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """Text, sources of anything loaded, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.sources = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        assert tag not in ("script", "link")

    def handle_startendtag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(workdir):
    path = write_report(workdir)
    assert path == workdir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def sample(caption, exact):
    references = ["a <b>red</b> circle", "two", "three", "four", "five"]
    return {
        "image": PICTURE,
        "caption": caption,
        "log_probability": -1.25,
        "references": references,
        "exact": exact,
    }


def answered(answer, accuracy):
    asked = {"image": PICTURE, "question": "what colour is it?", "given": "crimson"}
    return asked | {"answer": answer, "accuracy": accuracy}


ARTEFACTS = {
    "captions": {"samples": [sample("a cube", False), sample("two", True)]},
    "search": {
        "text_to_image": [
            {"text": "a star", "items": [{"image": PICTURE, "score": 0.75, "right": True}]}
        ],
        "image_to_text": [
            {"image": PICTURE, "items": [{"text": "a moon", "score": -0.5, "right": False}]}
        ],
    },
    "classes": {"class_names": ["cat", "dog"], "confusion": [[3, 1], [0, 4]]},
    "many": {"confused": [{"label": "<cow>", "prediction": "ox", "count": 12, "of": 1050}]},
    "vqa": {"questions": [answered("red", 1.0), answered("<blue>", 0.3)]},
}


@pytest.fixture
def workdir(tmp_path):
    workdir = tmp_path / "my_run"
    with MetricWriter(workdir) as writer:
        for step in (10, 20, 30):
            loss = float("nan") if step == 20 else 100.0 / step
            seen = {"train/examples_seen": 64 * step, "train/odd_metric": step / 7}
            writer.write(step, {"train/loss": loss, **seen})
    described = {
        "commit": "abc123",
        "branch": None,
        "versions": {"jax": "0.10.2"},
        "parameters": 1234567,
        "config": {"seed": 7, "train": {"steps": 60}, "model": {"text": {"num_layers": 12}}},
    }
    (workdir / "config.json").write_text(json.dumps(described))
    return workdir


def test_a_run_that_has_been_evaluated(workdir):
    for step, top1 in ((10, 0.25), (30, 0.625)):
        metrics = {"classes": {"top1": top1, "count": 12345.0}, "captions": {"cider": 1.5}}
        write_results(workdir, step, metrics, ARTEFACTS)
    page = report(workdir)
    for words in (
        "my_run",
        "Step 30 of 60 · 1,920 examples seen",
        "abc123",
        "jax 0.10.2",
        "1,234,567",
        "the evaluations at step 30",
        "0.6250",
        "12,345",
        "Not finite: 1 value",
        "More curves (1)",
        "At 2 points of training",
        "Exactly a reference: 1 of 2",
        "a <b>red</b> circle two three and 2 more",
        "✓ exact",
        "log p = −1.25",
        "✓ 0.750",
        "a moon",
        "2 questions of vqa, evenly spaced, with the model's answers; 1 of 2 are right",
        "what colour is it? red ✓ right what colour is it? <blue> people say: crimson",
        "dog taken for dog: 4 of 4",
        "text.num_layers 12",
    ):
        assert words in page.text, words
    assert "branch" not in page.text


def test_metrics_that_are_undefined_have_their_reason_and_no_curve(workdir):
    none = {"cider": Undefined("CIDEr needs <two> images"), "bleu4": 0.5}
    for step, metrics in ((10, none), (20, none | {"bleu4": 0.25}), (30, none)):
        write_results(workdir, step, {"captions": metrics, "vqa": {"blind": none["cider"]}}, {})
    text = report(workdir).text
    assert "captions 0.5000 bleu4 cider – cider is undefined: CIDEr needs <two> images" in text
    assert "vqa – blind blind is undefined: CIDEr needs <two> images" in text
    assert "Not finite: 1 value" in text  # of the loss
    assert text.count("Not finite") == 1


def test_the_page_needs_nothing_but_itself(workdir):
    write_results(workdir, 30, {"captions": {"cider": 1.5}}, ARTEFACTS)
    sources = report(workdir).sources
    pictures = [s for s in sources if s.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 6
    assert {base64.b64decode(s.split(",")[1]) for s in pictures} == {PICTURE}
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "url(http" not in (workdir / "report.html").read_text()


def test_a_run_that_has_not_been_evaluated_says_so(workdir):
    text = report(workdir).text
    assert "No evaluation has been made yet." in text
    assert "Evaluation over time" not in text


def test_a_run_that_has_only_begun(workdir):
    (workdir / "metrics.jsonl").unlink()
    assert "Nothing has been logged yet." in report(workdir).text


def test_metrics_alone_are_enough(workdir):
    (workdir / "config.json").unlink()
    assert "Step 30 · 1,920 examples seen" in report(workdir).text


def test_neither_jax_nor_the_model_is_imported(workdir):
    code = (
        "import sys; from coca_jax.observe.report import write_report; write_report(sys.argv[1]); "
        "sys.exit(any(name.split('.')[0] in ('jax', 'flax') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, str(workdir)], check=True)
