"""The page of a run, from the files that training and evaluations write."""

import base64
import html.parser
import json
import re
import subprocess
import sys

import pytest

from coca_jax.evaluate.metrics.undefined import Undefined
from coca_jax.evaluate.results import write_results
from coca_jax.observe.report import write_report
from coca_jax.observe.report.page import evenly_spaced
from coca_jax.observe.writers import MetricWriter

IMAGE = b"\xff\xd8 not really a JPEG file"
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


REFERENCES = ["a <b>red</b> circle", "two", "three", "four", "five"]


def sample(caption, exact=False, image=IMAGE, **more):
    values = {"image": image, "caption": caption, "exact": exact, "references": REFERENCES}
    return values | {"log_probability": -1.25} | more


def answered(answer, accuracy):
    asked = {"image": IMAGE, "question": "what color is it?", "given": "crimson"}
    return asked | {"answer": answer, "accuracy": accuracy}


ARTIFACTS = {
    "captions": {"samples": [sample("a cube", False), sample("two", True)]},
    "search": {
        "text_to_image": [
            {"text": "a star", "items": [{"image": IMAGE, "score": 0.75, "right": True}]}
        ],
        "image_to_text": [
            {"image": IMAGE, "items": [{"text": "a moon", "score": -0.5, "right": False}]}
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
        write_results(workdir, step, metrics, ARTIFACTS)
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
        "what color is it? red ✓ right what color is it? <blue> people say: crimson",
        "dog taken for dog: 4 of 4",
        "text.num_layers 12",
    ):
        assert words in page.text, words
    assert "branch" not in page.text


def test_metrics_that_are_undefined_have_their_reason_and_no_curve(workdir):
    none = {"cider": Undefined("CIDEr needs <two> images"), "bleu4": 0.5}
    for step, metrics in ((10, none), (20, none | {"bleu4": 0.25}), (30, none)):
        write_results(
            workdir,
            step,
            {"captions": metrics, "vqa": {"text_only_upper_bound": none["cider"]}},
            {},
        )
    text = report(workdir).text
    assert "captions 0.5000 bleu4 cider – cider is undefined: CIDEr needs <two> images" in text
    assert (
        "vqa – text only upper bound text only upper bound is undefined: CIDEr needs <two> images"
        in text
    )
    assert "Not finite: 1 value" in text  # of the loss
    assert text.count("Not finite") == 1


def test_the_page_needs_nothing_but_itself(workdir):
    write_results(workdir, 30, {"captions": {"cider": 1.5}}, ARTIFACTS)
    sources = report(workdir).sources
    embedded = [s for s in sources if s.startswith("data:image/jpeg;base64,")]
    assert len(embedded) == 6
    assert {base64.b64decode(s.split(",")[1]) for s in embedded} == {IMAGE}
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "url(http" not in (workdir / "report.html").read_text()


def looks(*words):
    return [{"word": word, "map": [[0.1, 0.4, 0.0], [0.2, 0.2, 0.1]]} for word in words]


def test_attention_is_drawn_once_for_each_word_and_of_many_images_folded_away(workdir):
    samples = [sample("a<b", image=IMAGE + bytes([i]), attention=looks("a<b")) for i in range(6)]
    metrics = {"mine": {"cider": 1.0}}
    write_results(workdir, 30, metrics, {"mine": {"samples": [*samples, sample("none")]}})
    page = report(workdir)
    assert "a<b" in page.text and "More images (2)" in page.text
    html = (workdir / "report.html").read_text()
    assert html.count('title="a&lt;b: 40.0% in the patch with the most, of 6"') == 6
    assert html.count("--aspect:3/2;") == html.count("--light:url(data:image/png;base64,") == 6
    assert html.count(base64.b64encode(samples[0]["image"]).decode()) == 2  # not once a word
    write_results(workdir, 30, metrics, {"mine": {"samples": [sample("", attention=[])]}})
    text = report(workdir).text
    assert "Attention" not in text and "(nothing)" in text


def test_captions_through_training_are_of_the_same_images(workdir):
    def evaluate(step, captions):
        samples = [
            sample(text, image=IMAGE + bytes([i]), exact=text == "late 2")
            for i, text in captions.items()
        ]
        write_results(workdir, step, {"mine": {"cider": 1.0}}, {"mine": {"samples": samples}})
        return report(workdir).text

    assert "through training" not in evaluate(200, {i: f"early {i}" for i in range(6)})
    assert "through training" not in evaluate(500, {7: "another image"})
    text = evaluate(1000, {i: f"late {i}" for i in (5, 2, 0)})
    assert "The captions of some images of mine at 3 steps of training." in text
    html = (workdir / "report.html").read_text()
    cards = re.findall(r'history">(.*?)</table>', html, re.DOTALL)
    rows = [" ".join(re.sub("&nbsp;|<.*?>", " ", card).split()) for card in cards]
    assert rows == [
        "200 early 5 1,000 late 5",
        "200 early 2 1,000 late 2 ✓",
        "200 early 0 1,000 late 0",
    ]
    images = [base64.b64encode(IMAGE + bytes([i])).decode() for i in (5, 2, 0)]
    assert all(image in card for image, card in zip(images, cards, strict=True))


def test_a_text_that_cannot_be_shown_or_is_markup_is_shown_as_text(workdir):
    text = "<i>a\0b\x1b[31m\x7f\x85\u202e\ud800\uffff é 猫\n"
    shown = "&lt;i&gt;a�b�[31m����� é 猫"
    query = [{"text": text, "items": [{"image": IMAGE, "score": 0.5, "right": True}]}]
    artifacts = {
        "samples": [sample(text, references=[text], attention=looks(text))],
        "confusion": [[1, 0], [0, 1]],
        "class_names": [text, "b"],
        "confused": [{"label": text, "prediction": "b", "count": 1, "of": 2}],
        "questions": [answered(text, 1.0) | {"question": text}],
        "text_to_image": query,
        "image_to_text": [{"image": IMAGE, "items": [{"text": text, "score": 1, "right": False}]}],
    }
    (workdir / "config.json").write_text(json.dumps({"config": {text: {text: text}}, text: text}))
    with MetricWriter(workdir) as writer:
        writer.write(30, {f"train/{text}": 1.0})
    write_results(workdir, 30, {text.replace("/", ""): {text: 1.0}}, {"drawn": artifacts})
    report(workdir)
    html = (workdir / "report.html").read_text()
    assert "<i>a" not in html and html.count(shown) >= 26
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\ufffe\uffff]", html)
    stored = json.loads((workdir / "eval/30/artifacts.json").read_text(encoding="utf-8"))
    assert stored["drawn"]["samples"][0]["caption"] == text


def test_wall_time_of_all_attempts(workdir):
    attempts = [
        {"began": 0.0, "first_step": 0, "last_step": 10, "seconds": {"step": 60.0, "start": 3.0}},
        {"began": 100.0, "first_step": 5, "last_step": 30, "seconds": {"step": 7137.0}},
    ]
    (workdir / "goodput.json").write_text(json.dumps(attempts))
    text = report(workdir).text
    assert (
        "Goodput 99.5% 2 h 0 min in 2 attempts, and 37.0 s between them when nothing ran." in text
    )
    assert "steps lost to a restart 30.0 s 0.4% start-up 3.0 s 0.0% compiling 0.0 s" in text
    assert "width:99.54%;background" in (workdir / "report.html").read_text()


def test_evenly_spaced():
    assert evenly_spaced(range(3), 4) == [0, 1, 2]
    assert evenly_spaced(range(10), 4) == [0, 3, 6, 9]


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
