import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import zero_shot
from coca_jax.evaluate.embed import embed_examples


def test_class_embedding_is_the_normalised_mean_of_its_prompts(fake_handle):
    texts = {"a cat": [3, 0], "the cat": [0, 7], "a dog": [-1, 0], "the dog": [-1, 0]}
    handle = fake_handle({}, texts)
    embeddings = zero_shot.class_embeddings(handle, ["cat", "dog"], ["a {}", "the {}"])
    np.testing.assert_allclose(embeddings, [[2**-0.5, 2**-0.5], [-1, 0]], rtol=1e-6)


def test_accuracies_by_hand():
    scores = np.array(
        [
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 0: first
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 4: fourth
            [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 2: sixth
            [0.0, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6],  # label 0: last
        ]
    )
    metrics = zero_shot.accuracies(scores, np.array([0, 4, 2, 0]))
    assert metrics["top1"] == 0.25
    assert metrics["top5"] == 0.5
    assert metrics["mean_per_class"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert metrics["chance_top1"] == pytest.approx(1 / 7)
    assert metrics["count"] == 4


def test_a_tie_counts_against_the_label():
    assert zero_shot.accuracies(np.ones((2, 3)), np.array([0, 2]))["top1"] == 0


def test_a_tie_of_classes_that_cannot_be_told_apart_does_not_count():
    scores = np.array([[0.5, 0.9, 0.5, 0.9], [0.9, 0.5, 0.9, 0.5], [0.5, 0.9, 0.9, 0.5]])
    same = np.array([0, 1, 2, 1])
    # The second example's label 0 ties with class 2, which is another one.
    metrics = zero_shot.accuracies(scores, np.array([3, 0, 2]), same)
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["chance_top1"] == pytest.approx((2 + 1 + 1) / 3 / 4)
    nowhere = zero_shot.accuracies(np.full((2, 6), np.nan), np.array([0, 5]), np.zeros(6, np.int64))
    assert nowhere["top1"] == nowhere["top5"] == 0


NAMES = ["sunglasses", "cat", "sunglasses", "Cat"]


@pytest.mark.parametrize("by", ["embeddings", "captions"])
def test_a_name_twice_is_two_classes(fake_handle, batches, capsys, by):
    zero_shot._warn_once.cache_clear()
    texts = {"a sunglasses": [1, 0, 0], "a cat": [0, 1, 0], "a Cat": [0, 0, 1]}
    handle = fake_handle({0: [1, 0, 0], 1: [0, 1, 0], 2: [1, 0, 0], 3: [0, 1, 0]}, texts)
    for _ in range(2):
        made = batches([[]] * 4, [0, 1, 2, 3], [3, 1])
        if by == "captions":
            found = zero_shot.evaluate_by_captions(handle, made, NAMES, ["a {}"])
        else:
            found = zero_shot.evaluate(handle, embed_examples(handle, made), NAMES, ["a {}"])
    metrics, artefacts = found
    assert metrics["top1"] == 0.75  # "Cat" has other tokens than "cat"
    names = ["sunglasses (0)", "cat", "sunglasses (2)", "Cat"]
    assert artefacts["per_class"] == dict(zip(names, (1, 1, 1, 0), strict=True))
    assert artefacts["class_names"] == names
    assert artefacts["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    told = capsys.readouterr().err
    assert told.count("more than once") == 1 and "sunglasses (0), sunglasses (2)" in told


def test_classes_whose_names_are_cut_off_are_told_apart_by_none(fake_handle, batches):
    handle = fake_handle({0: [1, 0]}, {"a": [1, 0]})
    handle.tokenize = lambda texts: np.zeros((len(texts), 1), np.int32)
    examples = embed_examples(handle, batches([[]], [0], [1]))
    assert zero_shot.evaluate(handle, examples, ["cat", "dog"], ["a {}"])[0]["top1"] == 0
    assert zero_shot.evaluate(handle, examples, ["cat", "CAT"], ["a {}"])[0]["top1"] == 1


def test_nan_counts_against_the_label():
    found = zero_shot.accuracies(np.full((2, 9), np.nan), np.array([0, 2]))
    assert found["top1"] == found["top5"] == 0


def test_confusion_counts_have_the_label_as_the_row():
    counts = zero_shot.confusion_counts(np.array([1, 1, 0, 1]), np.array([0, 0, 0, 1]), 2)
    assert counts.tolist() == [[1, 2], [0, 1]]


def test_of_many_classes_the_most_confused_are_named(monkeypatch):
    monkeypatch.setattr(zero_shot, "MOST_CLASSES_DRAWN", 2)
    scores, labels = np.eye(3)[[0, 1, 1, 2, 2, 2]], np.array([0, 0, 0, 1, 2, 2])
    artefacts = zero_shot.judge(scores, labels, ["cat", "dog", "cow"], 0)[1]
    assert "confusion" not in artefacts
    assert artefacts["confused"] == [
        {"label": "cat", "prediction": "dog", "count": 2, "of": 3},
        {"label": "dog", "prediction": "cow", "count": 1, "of": 1},
    ]


def test_evaluate_ignores_examples_without_a_label(fake_handle, batches):
    texts = {"a cat": [1, 0], "a dog": [0, 1]}
    handle = fake_handle({0: [1, 0.1], 1: [1, 0.1], 2: [1, 0.1], 3: [0.1, 1]}, texts)
    examples = embed_examples(handle, batches([[]] * 4, [0, -1, 1, 1], [3, 1]))
    metrics, artefacts = zero_shot.evaluate(handle, examples, ["cat", "dog"], ["a {}"])
    assert metrics["count"] == 3
    assert metrics["top1"] == pytest.approx(2 / 3)
    assert artefacts == {
        "per_class": {"cat": 1.0, "dog": 0.5},
        "class_names": ["cat", "dog"],
        "confusion": [[1, 0], [1, 1]],
    }


@pytest.mark.parametrize(("label", "message"), [(-1, "no example has one"), (2, "label 2")])
def test_labels_that_cannot_be_scored_are_errors_of_the_user(fake_handle, batches, label, message):
    handle = fake_handle({0: [1, 0]}, {"a cat": [1, 0], "a dog": [0, 1]})
    examples = embed_examples(handle, batches([[]], [label], [1]))
    with pytest.raises(UserError, match=message):
        zero_shot.evaluate(handle, examples, ["cat", "dog"], ["a {}"])


def test_classes_without_names_are_errors_of_the_user(fake_handle, batches):
    handle = fake_handle({0: [1, 0]}, {"a cat": [1, 0], "a dog": [0, 1]})
    examples = embed_examples(handle, batches([[]], [0], [1]))
    with pytest.raises(UserError, match="set class_names, a file with a name a line"):
        zero_shot.evaluate(handle, examples, [], ["a {}"])
    with pytest.raises(UserError, match="set class_names, a file with a name a line"):
        zero_shot.evaluate_by_captions(handle, batches([[]], [0], [1]), [])
    with pytest.raises(UserError, match="has no examples"):
        zero_shot.evaluate_by_captions(handle, iter([]), ["cat", "dog"], ["a {}"])


def test_captions_judge_by_the_sum_of_their_prompts_probabilities(fake_handle, batches):
    # Prompts in the order class by class; the fake's log-probabilities are dot products.
    texts = {"a x": (1, 0, 0), "the x": (0, 1, 0), "a y": (0, 0, 1), "the y": (1, 1, 1)}
    images = {0: (1, 0, 0), 1: (-1, -1, 1), 2: (0, 0, 1)}
    handle = fake_handle(images, texts)
    made = batches([["-"]] * 3, [0, 1, -1], [2, 1])
    metrics, artefacts = zero_shot.evaluate_by_captions(
        handle, made, ["x", "y"], ["a {}", "the {}"]
    )
    unit = {k: np.array(v) / np.linalg.norm(v) for k, v in (images | texts).items()}
    expected = []
    for image in (0, 1):
        x, y = (sum(np.exp(unit[image] @ unit[f"{a} {c}"]) for a in ("a", "the")) for c in "xy")
        expected.append(int(y > x))
    assert metrics["top1"] == np.mean(np.array(expected) == [0, 1]) and metrics["count"] == 2
    assert np.argmax(np.array(artefacts["confusion"]), axis=1).tolist() == expected
