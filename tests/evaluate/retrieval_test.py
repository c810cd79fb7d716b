import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate import rerank, retrieval
from coca_jax.evaluate.embed import embed_examples


def test_identical_captions_are_one_text():
    texts, pairs = retrieval.unique_texts([["a", "b", "a"], [], ["c", "a"]])
    assert texts == ["a", "b", "c"]
    assert pairs.tolist() == [[0, 0], [0, 1], [2, 2], [2, 0]]


CAPTIONS = [["a red ball", "a ball"], ["a blue ball", "a ball"], ["a cube"]]


def planted(fake_model):
    """Image 1's full caption lies at image 0, all else where it belongs."""
    images = {0: [1, 0, 0], 1: [0, 1, 0], 2: [0, 0, 1]}
    texts = {
        "a red ball": [0.9, 0, 0.1],
        "a blue ball": [1, 0.1, 0],
        "a ball": [0.4, 0.5, 0],
        "a cube": [0, 0, 1],
    }
    return fake_model(images, texts)


def test_evaluate_counts_any_of_an_images_captions(fake_model, batches):
    model = planted(fake_model)
    examples = embed_examples(model, batches(CAPTIONS, [-1] * 3, [2, 1]))
    metrics, artifacts = retrieval.search(model, examples)
    # Image 0 prefers "a blue ball" and misses; image 1 finds "a ball", image 2 "a cube".
    assert metrics["image_to_text_r1"] == pytest.approx(2 / 3)
    # "a blue ball" finds image 0 and misses; "a ball" finds image 1, one of its two.
    assert metrics["text_to_image_r1"] == pytest.approx(3 / 4)
    assert metrics["image_to_text_r5"] == metrics["text_to_image_r5"] == 1
    assert metrics["image_to_text_chance_r1"] == pytest.approx((2 + 2 + 1) / 3 / 4)
    assert metrics["text_to_image_chance_r1"] == pytest.approx((1 + 2 + 1 + 1) / 4 / 3)
    assert (metrics["images"], metrics["texts"]) == (3, 4)

    query = artifacts["text_to_image"][2]
    assert query["text"] == "a blue ball"
    assert [item["right"] for item in query["items"]] == [False, True, False]
    assert query["items"][0]["image"] == examples.thumbnails[0]
    found = artifacts["image_to_text"][1]["items"]
    assert [(item["text"], item["right"]) for item in found[:2]] == [
        ("a ball", True),
        ("a blue ball", True),
    ]


def test_evaluate_on_first_captions_only(fake_model, batches):
    model = planted(fake_model)
    examples = embed_examples(model, batches(CAPTIONS, [-1] * 3, [3]))
    metrics, _ = retrieval.search(model, examples, captions="first")
    assert metrics["texts"] == 3
    assert metrics["image_to_text_r1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text_chance_r1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("known", ["id", "bytes"])
def test_a_record_for_each_caption_is_as_good_as_one_for_each_image(
    fake_model, batches, known, capsys
):
    model = planted(fake_model)
    whole = embed_examples(model, batches(CAPTIONS, [-1] * 3, [3]))
    expected, drawn = retrieval.search(model, whole)
    pairs = [(i, text) for i, texts in enumerate(CAPTIONS) for text in texts]
    order = [0, 2, 4, 1, 3]
    rows = {
        "image": np.stack([np.full((8, 12, 3), pairs[n][0], np.uint8) for n in order]),
        "captions": [[pairs[n][1]] for n in order],
        "label": np.full(5, -1),
        "digest": [bytes([pairs[n][0]]) for n in order],
        "fields": [{"cocoid": pairs[n][0]} if known == "id" else {"id": n} for n in order],
    }
    found, artifacts = retrieval.search(model, embed_examples(model, [rows]))
    assert found == expected
    assert artifacts["image_to_text"][0]["image"] == drawn["image_to_text"][0]["image"]
    first, _ = retrieval.search(model, embed_examples(model, [rows]), captions="first")
    assert first["texts"] == 3
    assert capsys.readouterr().err == ""
    rows["fields"] = [{"cocoid": n} for n in order]
    lied, _ = retrieval.search(model, embed_examples(model, [rows]))
    assert lied["images"] == 5 and "2 of 5 images are equal byte for" in capsys.readouterr().err


def test_no_captions_is_an_error_of_the_user(fake_model, batches):
    model = planted(fake_model)
    examples = embed_examples(model, batches([[]] * 3, [0] * 3, [3]))
    with pytest.raises(UserError, match="no example has one"):
        retrieval.search(model, examples)


def test_candidates_are_ordered_again_by_the_head(fake_model, fake_data, batches):
    """By a head that prefers the least similar of the candidates, which makes all wrong right."""
    model = planted(fake_model)
    data = fake_data(list(batches(CAPTIONS, [-1] * 3, [2, 1])), model=model)
    metrics = retrieval.Retrieval(rerank=2, rerank_by="matching").run(model, data)[0]
    plain = retrieval.search(model, data.embedded())[0]
    assert plain.items() <= metrics.items() and metrics.keys() - plain.keys() == {
        "reranked_image_to_text_r1",
        "reranked_text_to_image_r1",
    }
    # Image 0's candidates are "a blue ball" and "a red ball", its own, now the first; image 1's are
    # both its own; image 2's are "a cube", now the last, and "a red ball".
    assert metrics["reranked_image_to_text_r1"] == pytest.approx(2 / 3)
    # "a red ball" finds image 0 and then 2; "a blue ball" 0 and then 1, its own; "a ball" has both
    # of its own; "a cube" finds 2, and then one of the others with similarity 0.
    assert metrics["reranked_text_to_image_r1"] == pytest.approx(2 / 4)


def test_reranking_reads_each_image_once_and_ties_count_as_wrong(fake_model, fake_data, batches):
    model = planted(fake_model)
    made = list(batches([*CAPTIONS, ["a red ball"]], [-1] * 4, [4]))
    made[0] |= {"image": made[0]["image"] % 3, "fields": [{"image_id": i % 3} for i in range(4)]}
    data = fake_data(made, model=model)
    scored = []

    def log_probabilities(pixels, texts):
        scored.extend(pixels[:, 0, 0, 0].tolist())
        return np.zeros((len(texts), len(texts[0])))

    model.log_probabilities = log_probabilities
    metrics = retrieval.Retrieval(rerank=10, rerank_by="captions").run(model, data)[0]
    assert sorted(scored) == [0, 1, 2]  # all texts of an image fit into one row
    assert metrics["reranked_image_to_text_r1"] == metrics["reranked_text_to_image_r1"] == 0
    # Of four texts and three images, all are candidates.
    assert metrics.keys() >= {"image_to_text_r10"}


def test_a_text_that_is_probable_for_any_image_does_not_win():
    """Against odds: rows are images, columns are texts."""
    p = np.array([[0.6, 0.5, 0.01], [0.6, 0.01, 0.3], [0.6, 0.02, 0.2]])
    scores = {(i, t): float(np.log(p[i, t])) for i in range(3) for t in range(3)}
    found = rerank.log_odds(scores, np.array([[0, 1], [0, 1], [0, 1]]))
    expected = [
        [0.6 / 0.6, 0.5 / 0.01, 0.01 / 0.3],
        [0.6 / 0.6, 0.01 / 0.5, 0.3 / 0.01],
        [0.6 / 1.2, 0.02 / 0.51, 0.2 / 0.31],  # image 2 is not a candidate of any
    ]
    actual = [[np.exp(found[i, t]) for t in range(3)] for i in range(3)]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_log_odds_tell_texts_apart_that_are_all_but_certain():
    scores = {(0, 0): -1.0, (1, 0): -90.0, (0, 1): -2.0, (1, 1): -80.0}
    found = rerank.log_odds(scores, np.array([[0, 1], [0, 1]]))
    assert (found[0, 0], found[0, 1]) == (89.0, 78.0)
    assert rerank.log_odds({(0, 0): -3.0, (0, 1): -2.0}, np.array([[0], [0]]))[0, 0] == -3.0


def test_captions_order_texts_by_what_is_special_to_the_image(fake_model, fake_data, batches):
    model, right = planted(fake_model), ["a red ball", "a blue ball", "a cube"]
    data = fake_data(list(batches([[text] for text in right], [-1] * 3, [3])), model=model)
    # Whatever is shown, "a cube" is the most probable text.
    p = {
        "a red ball": (0.2, 0.01, 0.01),
        "a blue ball": (0.01, 0.2, 0.01),
        "a cube": (0.5, 0.5, 0.9),
    }

    def log_probabilities(pixels, texts):
        rows = zip(pixels[:, 0, 0, 0].tolist(), texts, strict=True)
        return np.log([[p[text][image] for text in of_image] for image, of_image in rows])

    model.log_probabilities = log_probabilities
    metrics = retrieval.Retrieval(rerank=3).run(model, data)[0]
    assert metrics["reranked_image_to_text_r1"] == metrics["reranked_text_to_image_r1"] == 1


def test_at_most_so_many_pairs_are_scored_at_a_time(monkeypatch):
    monkeypatch.setattr(rerank, "PAIRS", 4)
    calls = []

    def score(pixels, texts):
        calls.append((len(pixels), len(texts[0])))
        return [
            [10 * image + int(text) for text in row]
            for image, row in zip(pixels, texts, strict=True)
        ]

    texts = [str(i) for i in range(6)]
    for count in (6, 3):
        scores = rerank.pair_scores(score, [(np.arange(2), [0, 1])], texts, [range(6)] * 2, count)
        assert scores == {(i, t): 10 * i + t for i in range(2) for t in range(6)}
    assert all(images * of_image <= 4 for images, of_image in calls)


def test_reranking_needs_what_scores_and_takes_one_image():
    plain, captions = retrieval.Retrieval(), retrieval.Retrieval(rerank=5)
    head = retrieval.Retrieval(rerank=5, rerank_by="matching")
    assert [each.required_losses for each in (plain, head, captions)] == [
        ("contrastive",),
        ("contrastive", "matching"),
        ("contrastive", "captioning"),
    ]
    assert plain.several_images and not head.several_images


def test_reranking_does_not_reduce_examples_of_several_images_to_one():
    config = ConfigDict({"data": {"num_images": 3}})
    (message,) = retrieval.Retrieval(rerank=5).conflicts(config)
    assert message.startswith("rerank=5: ") and "config.data.num_images=3" in message
    assert not [*retrieval.Retrieval().conflicts(config)]
    assert not [*retrieval.Retrieval(rerank=5, num_images=1).conflicts(config)]
    assert not [*retrieval.Retrieval(rerank=5).conflicts(ConfigDict({"data": {"num_images": 1}}))]
