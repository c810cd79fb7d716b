import math

import pytest

from coca_jax.evaluate.metrics.coco import METRICS, caption_metrics
from coca_jax.evaluate.metrics.undefined import reasons


def test_exact_match_is_up_to_case_and_white_space():
    metrics = caption_metrics(
        ["a  Red circle", "a ball", "a cube."], [["a red circle", "x"], ["x", "a ball"], ["a cube"]]
    )
    assert metrics["exact_match"] == pytest.approx(2 / 3)
    assert metrics["exact_match_first"] == pytest.approx(1 / 3)


def test_bleu4_by_hand():
    # Precisions of 1 to 4 words: 5/6, 3/5, 2/4, 1/3; both texts have 6 words: no brevity penalty.
    metrics = caption_metrics(["the cat sat on a mat"], [["The cat sat on the mat!"]])
    precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    assert metrics["bleu4"] == pytest.approx(math.prod(precisions) ** 0.25, rel=1e-4)


def test_cider_of_perfect_captions_is_ten():
    # Cosine similarity 1 for each n-gram length, no length penalty, times ten.
    texts = ["a red circle on the left", "two small dogs in the snow", "an old train at night"]
    metrics = caption_metrics(texts, [[text] for text in texts])
    assert metrics["cider"] == pytest.approx(10, rel=1e-6)
    assert metrics["bleu4"] == pytest.approx(1, rel=1e-6)
    assert caption_metrics(texts[::-1], [[t] for t in texts])["cider"] < 5


@pytest.mark.parametrize(
    "references",
    [
        [["a red circle"]],
        [["a red circle", "a ball"]],
        [["a ball"]] * 2,
        [["a ball", "a ball"]] * 3,
    ],
)
def test_cider_is_undefined_where_all_images_have_the_same_words(references):
    metrics = caption_metrics(["a ball"] * len(references), references)
    assert "references of several images that differ" in reasons(metrics)["cider"]
    assert metrics["exact_match"] in (0, 1)
    more = caption_metrics(["a ball"] * 3, [["a ball"], ["a ball"], ["a cube"]])
    assert 0 < more["cider"] < 10


def test_what_references_have_too_few_words_for_is_undefined():
    metrics = caption_metrics(["a cat", "a dog sat"], [["a cat"], ["a dog", "!"]])
    assert set(reasons(metrics)) == {"bleu3", "bleu4", "meteor"}
    assert metrics["bleu2"] > 0.5 and metrics["cider"] > 1
    metrics = caption_metrics(["a cat", ""], [["!"], ["..."]])
    assert set(reasons(metrics)) == set(METRICS)
