import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import retrieval
from coca_jax.evaluate.embed import embed_examples
from coca_jax.evaluate.undefined import reasons


def brute_force_ranks(queries, items, pairs):
    """Sorts each query's items, wrong before right among equals, and looks for the first right."""
    ranks = []
    for q, query in enumerate(queries):
        right = {int(i) for row, i in pairs if row == q}
        scored = sorted((-float(np.dot(query, item)), i in right) for i, item in enumerate(items))
        ranks.append(next((r for r, (_, is_right) in enumerate(scored) if is_right), len(items)))
    return ranks


@pytest.mark.parametrize("scores_in_memory", [1, 40, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_match_brute_force_whatever_the_block(seed, scores_in_memory):
    rng = np.random.default_rng(seed)
    # Small whole numbers: exact in any order of summation, and with many ties.
    queries = rng.integers(-2, 3, (17, 3)).astype(np.float32)
    items = rng.integers(-2, 3, (11, 3)).astype(np.float32)
    pairs = rng.permutation(np.argwhere(rng.random((17, 11)) < 0.15))
    assert len(np.unique(pairs[:, 0])) < 17  # some query has no right item
    ranks = retrieval.best_ranks(queries, items, pairs, scores_in_memory)
    assert ranks.tolist() == brute_force_ranks(queries, items, pairs)


def test_recalls_by_hand():
    queries = np.eye(3, 12, dtype=np.float32)
    items = np.zeros((12, 12), np.float32)
    items[:, 0] = np.arange(12, 0, -1)  # query 0 ranks the items 0, 1, 2, ...
    items[:, 1] = np.arange(12)  # query 1 ranks them 11, 10, 9, ...
    pairs = np.array([[0, 0], [0, 5], [1, 4], [1, 0]])  # ranks 0 and 7; query 2 does not count
    assert retrieval.recalls(queries, items, pairs) == {
        "r1": 0.5,
        "r5": 0.5,
        "r10": 1.0,
        "chance_r1": pytest.approx(2 / 12),
    }


def test_a_model_that_maps_everything_to_a_point_finds_nothing():
    same = np.ones((20, 4), np.float32)
    pairs = np.stack([np.arange(20), np.arange(20)], axis=1)
    assert retrieval.recalls(same, same, pairs)["r10"] == 0


def test_a_model_that_gives_nan_finds_nothing():
    points = np.eye(12, dtype=np.float32)
    pairs = np.stack([np.arange(12)] * 2, axis=1)
    nowhere = np.full_like(points, np.nan)
    assert retrieval.recalls(points, points, pairs)["r1"] == 1
    assert retrieval.recalls(nowhere, points, pairs)["r10"] == 0
    points[3] = np.nan  # among the items, and so is never known to be worse
    assert retrieval.recalls(np.eye(12, dtype=np.float32), points, pairs)["r1"] == 0


def test_identical_captions_are_one_text():
    texts, pairs = retrieval.unique_texts([["a", "b", "a"], [], ["c", "a"]])
    assert texts == ["a", "b", "c"]
    assert pairs.tolist() == [[0, 0], [0, 1], [2, 2], [2, 0]]


CAPTIONS = [["a red ball", "a ball"], ["a blue ball", "a ball"], ["a cube"]]


def planted(fake_handle):
    """Image 1's full caption lies at image 0, all else where it belongs."""
    images = {0: [1, 0, 0], 1: [0, 1, 0], 2: [0, 0, 1]}
    texts = {
        "a red ball": [0.9, 0, 0.1],
        "a blue ball": [1, 0.1, 0],
        "a ball": [0.4, 0.5, 0],
        "a cube": [0, 0, 1],
    }
    return fake_handle(images, texts)


def test_evaluate_counts_any_of_an_images_captions(fake_handle, batches):
    handle = planted(fake_handle)
    examples = embed_examples(handle, batches(CAPTIONS, [-1] * 3, [2, 1]))
    metrics, artefacts = retrieval.evaluate(handle, examples)
    # Image 0 prefers "a blue ball" and misses; image 1 finds "a ball", image 2 "a cube".
    assert metrics["image_to_text_r1"] == pytest.approx(2 / 3)
    # "a blue ball" finds image 0 and misses; "a ball" finds image 1, one of its two.
    assert metrics["text_to_image_r1"] == pytest.approx(3 / 4)
    assert metrics["image_to_text_r5"] == metrics["text_to_image_r5"] == 1
    assert metrics["image_to_text_chance_r1"] == pytest.approx((2 + 2 + 1) / 3 / 4)
    assert metrics["text_to_image_chance_r1"] == pytest.approx((1 + 2 + 1 + 1) / 4 / 3)
    assert (metrics["images"], metrics["texts"]) == (3, 4)

    query = artefacts["text_to_image"][2]
    assert query["text"] == "a blue ball"
    assert [item["right"] for item in query["items"]] == [False, True, False]
    assert query["items"][0]["image"] == examples.thumbnails[0]
    found = artefacts["image_to_text"][1]["items"]
    assert [(item["text"], item["right"]) for item in found[:2]] == [
        ("a ball", True),
        ("a blue ball", True),
    ]


def test_evaluate_on_first_captions_only(fake_handle, batches):
    handle = planted(fake_handle)
    examples = embed_examples(handle, batches(CAPTIONS, [-1] * 3, [3]))
    metrics, _ = retrieval.evaluate(handle, examples, captions="first")
    assert metrics["texts"] == 3
    assert metrics["image_to_text_r1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text_chance_r1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("known", ["id", "bytes"])
def test_a_record_for_each_caption_is_as_good_as_one_for_each_image(
    fake_handle, batches, known, capsys
):
    handle = planted(fake_handle)
    whole = embed_examples(handle, batches(CAPTIONS, [-1] * 3, [3]))
    expected, drawn = retrieval.evaluate(handle, whole)
    pairs = [(i, text) for i, texts in enumerate(CAPTIONS) for text in texts]
    order = [0, 2, 4, 1, 3]
    rows = {
        "image": np.stack([np.full((8, 12, 3), pairs[n][0], np.uint8) for n in order]),
        "captions": [[pairs[n][1]] for n in order],
        "label": np.full(5, -1),
        "digest": [bytes([pairs[n][0]]) for n in order],
        "fields": [{"cocoid": pairs[n][0]} if known == "id" else {"id": n} for n in order],
    }
    found, artefacts = retrieval.evaluate(handle, embed_examples(handle, [rows]))
    assert found == expected
    assert artefacts["image_to_text"][0]["image"] == drawn["image_to_text"][0]["image"]
    first, _ = retrieval.evaluate(handle, embed_examples(handle, [rows]), captions="first")
    assert first["texts"] == 3
    assert capsys.readouterr().err == ""
    rows["fields"] = [{"cocoid": n} for n in order]
    lied, _ = retrieval.evaluate(handle, embed_examples(handle, [rows]))
    assert lied["images"] == 5 and "2 of 5 images are equal byte for" in capsys.readouterr().err


def test_without_a_right_item_recall_is_undefined():
    found = retrieval.recalls(np.eye(2), np.eye(2), np.zeros((0, 2), np.int64))
    assert set(reasons(found)) == {"r1", "r5", "r10", "chance_r1"}


def test_no_captions_is_an_error_of_the_user(fake_handle, batches):
    handle = planted(fake_handle)
    examples = embed_examples(handle, batches([[]] * 3, [0] * 3, [3]))
    with pytest.raises(UserError, match="no example has one"):
        retrieval.evaluate(handle, examples)
