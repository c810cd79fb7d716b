import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import zero_shot
from coca_jax.evaluate.embed import embed_examples
from coca_jax.evaluate.metrics import accuracy


def test_class_embedding_is_the_normalised_mean_of_its_prompts(fake_model):
    texts = {"a cat": [3, 0], "the cat": [0, 7], "a dog": [-1, 0], "the dog": [-1, 0]}
    model = fake_model({}, texts)
    embeddings = zero_shot.class_embeddings(model, ["cat", "dog"], ["a {}", "the {}"])
    np.testing.assert_allclose(embeddings, [[2**-0.5, 2**-0.5], [-1, 0]], rtol=1e-6)


NAMES = ["sunglasses", "cat", "sunglasses", "Cat"]


@pytest.mark.parametrize("by", ["embeddings", "captions"])
def test_a_name_twice_is_two_classes(fake_model, batches, capsys, by):
    accuracy._warn_once.cache_clear()
    texts = {"a sunglasses": [1, 0, 0], "a cat": [0, 1, 0], "a Cat": [0, 0, 1]}
    model = fake_model({0: [1, 0, 0], 1: [0, 1, 0], 2: [1, 0, 0], 3: [0, 1, 0]}, texts)
    for _ in range(2):
        made = batches([[]] * 4, [0, 1, 2, 3], [3, 1])
        if by == "captions":
            found = zero_shot.classify_by_captions(model, made, NAMES, ["a {}"])
        else:
            found = zero_shot.classify_by_embeddings(
                model, embed_examples(model, made), NAMES, ["a {}"]
            )
    metrics, artifacts = found
    assert metrics["top1"] == 0.75  # "Cat" has other tokens than "cat"
    names = ["sunglasses (0)", "cat", "sunglasses (2)", "Cat"]
    assert artifacts["per_class"] == dict(zip(names, (1, 1, 1, 0), strict=True))
    assert artifacts["class_names"] == names
    assert artifacts["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    printed = capsys.readouterr().err
    assert printed.count("have the same name") == 1 and "sunglasses (0), sunglasses (2)" in printed


def test_classes_whose_names_are_cut_off_are_told_apart_by_none(fake_model, batches):
    model = fake_model({0: [1, 0]}, {"a": [1, 0]})
    model.tokenize = lambda texts: np.zeros((len(texts), 1), np.int32)
    examples = embed_examples(model, batches([[]], [0], [1]))
    assert (
        zero_shot.classify_by_embeddings(model, examples, ["cat", "dog"], ["a {}"])[0]["top1"] == 0
    )
    assert (
        zero_shot.classify_by_embeddings(model, examples, ["cat", "CAT"], ["a {}"])[0]["top1"] == 1
    )


def test_evaluate_ignores_examples_without_a_label(fake_model, batches):
    texts = {"a cat": [1, 0], "a dog": [0, 1]}
    model = fake_model({0: [1, 0.1], 1: [1, 0.1], 2: [1, 0.1], 3: [0.1, 1]}, texts)
    examples = embed_examples(model, batches([[]] * 4, [0, -1, 1, 1], [3, 1]))
    metrics, artifacts = zero_shot.classify_by_embeddings(model, examples, ["cat", "dog"], ["a {}"])
    assert metrics["count"] == 3
    assert metrics["top1"] == pytest.approx(2 / 3)
    assert artifacts == {
        "per_class": {"cat": 1.0, "dog": 0.5},
        "class_names": ["cat", "dog"],
        "confusion": [[1, 0], [1, 1]],
    }


@pytest.mark.parametrize(("label", "message"), [(-1, "no example has one"), (2, "label 2")])
def test_labels_that_cannot_be_scored_are_errors_of_the_user(fake_model, batches, label, message):
    model = fake_model({0: [1, 0]}, {"a cat": [1, 0], "a dog": [0, 1]})
    examples = embed_examples(model, batches([[]], [label], [1]))
    with pytest.raises(UserError, match=message):
        zero_shot.classify_by_embeddings(model, examples, ["cat", "dog"], ["a {}"])


@pytest.mark.parametrize("scoring", ["embeddings", "captions"])
def test_classes_without_names_and_data_without_examples(fake_model, fake_data, batches, scoring):
    model = fake_model({0: [1, 0]}, {"a cat": [1, 0], "a dog": [0, 1]})
    evaluation = zero_shot.ZeroShot(scoring=scoring, templates=("a {}",))
    with pytest.raises(UserError, match="set class_names, a file with a name a line"):
        evaluation.run(model, fake_data(batches([[]], [0], [1])))
    with pytest.raises(UserError, match="has no examples"):
        evaluation.run(model, fake_data([], ["cat", "dog"], model=model))


def test_the_probabilities_of_a_class_s_prompts_are_added_up(fake_model, batches):
    # Prompts in the order class by class; the fake's log-probabilities are dot products.
    texts = {"a x": (1, 0, 0), "the x": (0, 1, 0), "a y": (0, 0, 1), "the y": (1, 1, 1)}
    images = {0: (1, 0, 0), 1: (-1, -1, 1), 2: (0, 0, 1)}
    model = fake_model(images, texts)
    made = batches([["-"]] * 3, [0, 1, -1], [2, 1])
    metrics, artifacts = zero_shot.classify_by_captions(model, made, ["x", "y"], ["a {}", "the {}"])
    unit = {k: np.array(v) / np.linalg.norm(v) for k, v in (images | texts).items()}
    expected = []
    for image in (0, 1):
        x, y = (sum(np.exp(unit[image] @ unit[f"{a} {c}"]) for a in ("a", "the")) for c in "xy")
        expected.append(int(y > x))
    assert metrics["top1"] == np.mean(np.array(expected) == [0, 1]) and metrics["count"] == 2
    assert np.argmax(np.array(artifacts["confusion"]), axis=1).tolist() == expected
