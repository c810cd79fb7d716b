import base64
import json
import re

import cv2
import numpy as np

from coca_jax.evaluate.results import write_results
from coca_jax.observe.report import write_report
from coca_jax.observe.report.captions import spaced

PICTURES = [b"\xff\xd8 not really a JPEG file" + bytes([i]) for i in range(6)]
MAP = [[0.1, 0.4, 0.0], [0.2, 0.2, 0.1]]


def sample(i, caption, exact=False, **more):
    known = {"image": PICTURES[i], "caption": caption, "exact": exact}
    return known | {"log_probability": -1.0, "references": ["a"]} | more


def page(workdir, **steps):
    """The report of a run whose evaluation left these samples at `at_<step>`."""
    (workdir / "config.json").write_text(json.dumps({"config": {}}))
    for step, samples in steps.items():
        left = {"drawn": {"samples": samples}}
        write_results(workdir, int(step.removeprefix("at_")), {"drawn": {"cider": 1.0}}, left)
    return write_report(workdir).read_text(encoding="utf-8")


def test_a_words_light_is_as_opaque_as_its_share_of_the_largest_weight(tmp_path):
    looks = [{"word": "a<b", "map": MAP}, {"word": "flat", "map": [[0.25, 0.25], [0.25, 0.25]]}]
    html = page(tmp_path, at_1=[sample(0, "a<b", attention=looks)])
    assert "<figcaption>a&lt;b</figcaption>" in html and "a&lt;b: 40.0% in the patch" in html
    assert "--aspect:3/2;" in html
    first, second = (
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
        for data in re.findall(r"--light:url\(data:image/png;base64,([^)]*)\)", html)
    )
    patches = first[:, :, 3].reshape(2, 32, 3, 32)
    np.testing.assert_array_equal(patches.max(axis=(1, 3)), [[64, 255, 0], [128, 128, 64]])
    np.testing.assert_array_equal(patches.min(axis=(1, 3)), patches.max(axis=(1, 3)))
    assert (second[:, :, 3] == 255).all()
    assert html.count(base64.b64encode(PICTURES[0]).decode()) == 2  # not once for each word


def test_attention_of_many_images_is_folded_away_and_may_be_missing(tmp_path):
    looks = [{"word": "a", "map": MAP}]
    html = page(tmp_path, at_1=[sample(i, "a", attention=looks) for i in range(6)])
    assert "More images (2)" in html
    assert "Attention" not in page(tmp_path, at_1=[sample(0, "a"), sample(1, "", attention=[])])


def test_weights_of_a_diverged_model_are_drawn_as_none(tmp_path):
    looks = [{"word": "a", "map": [[float("nan")] * 2]}]
    assert "a: 0.0% in the patch" in page(tmp_path, at_1=[sample(0, "a", attention=looks)])


def test_captions_through_training_are_of_the_same_images(tmp_path):
    early = [sample(i, f"early {i}") for i in range(6)]
    late = [sample(i, f"late {i}", exact=i == 2) for i in (5, 2, 0)]
    html = page(tmp_path, at_1000=late, at_200=early)
    cards = re.findall(r'history">(.*?)</table>', html)
    texts = [re.sub("&nbsp;", " ", re.sub("<.*?>", " ", card)).split() for card in cards]
    assert texts == [
        ["200", "early", "5", "1,000", "late", "5"],
        ["200", "early", "2", "1,000", "late", "2", "✓"],
        ["200", "early", "0", "1,000", "late", "0"],
    ]
    assert [base64.b64encode(PICTURES[i]).decode() in cards[k] for k, i in enumerate((5, 2, 0))]


def test_what_cannot_be_shown_is_replaced(tmp_path):
    text = "a\0b\x1b[31m\x7f\x85\u202e\ud800\uffff é 猫\n"
    looks = [{"word": text, "map": MAP}]
    left = {
        "samples": [sample(0, text, references=[text], attention=looks)],
        "confusion": [[1, 0], [0, 1]],
        "class_names": [text, "b"],
        "confused": [{"label": text, "prediction": "b", "count": 1, "of": 2}],
        "questions": [{"image": PICTURES[1], "question": text, "answer": text, "accuracy": 1.0}],
    }
    (tmp_path / "config.json").write_text(json.dumps({"config": {"name": text}}))
    write_results(tmp_path, 1, {"drawn": {"cider": 1.0}}, {"drawn": left})
    html = write_report(tmp_path).read_bytes().decode("utf-8")
    assert html.count("a�b�[31m����� é 猫") >= 15
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\ufffe\uffff]", html)
    stored = json.loads((tmp_path / "eval/1/artefacts.json").read_text(encoding="utf-8"))
    assert stored["drawn"]["samples"][0]["caption"] == text


def test_one_step_or_other_images_are_no_progress(tmp_path):
    assert "through training" not in page(tmp_path, at_1=[sample(0, "a")])
    assert "through training" not in page(tmp_path, at_2=[sample(1, "a")])
    assert "through training" in page(tmp_path, at_3=[sample(1, "b")])


def test_spaced():
    assert spaced(range(3), 4) == [0, 1, 2]
    assert spaced(range(10), 4) == [0, 3, 6, 9]
