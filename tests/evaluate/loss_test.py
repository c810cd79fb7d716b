"""The losses of held-out examples: exact against NumPy in float64, on one device and on many."""

import copy
import functools
import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from coca_jax.config import build, load_config, model_config, to_json
from coca_jax.config.record import parse_record
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.data import EvaluationData
from coca_jax.evaluate.loss import HeldOutLoss
from coca_jax.evaluate.parsing import parse_evals
from coca_jax.inference import LoadedModel
from coca_jax.losses import trained_losses, weighted_sum
from coca_jax.models import init_params, make_model

BATCH, COUNT = 8, 19
TEXTS = ["", "a", "a red ring", "two blue stars", "on gray", "a dot and a dot"]
SMALL = {
    **dict.fromkeys(("model.image.width", "model.text.width", "model.embed_dim"), 16),
    **dict.fromkeys(("model.image.mlp_dim", "model.text.mlp_dim"), 16),
    **dict.fromkeys(("model.image.num_heads", "model.text.num_heads"), 2),
    **{"model.pooler.num_heads": 2, "model.scan_unroll": 1, "model.text.context_length": 12},
    **{"data.tokenizer.kind": "byte", "model.text.vocab_size": 260, "train.batch_size": BATCH},
    **{"model.dropout": 0.5, "loss.captioning.weight": 3.0},
}


@pytest.fixture(scope="module")
def config():
    config = load_config("configs/shapes.py:smoke")
    config.update_from_flattened_dict(SMALL)
    return config


@functools.cache
def loaded_once(config_json, sizes):
    config = parse_record({"config": json.loads(config_json)})
    model = make_model(model_config(config))
    shapes = nn.meta.unbox(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)
    if "logit_scale" in params:
        params["logit_scale"] = np.float32(2.0)
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    return LoadedModel(model, params, make_tokenizer("byte", None), Partitioner(mesh))


def loaded(config, sizes):
    """The model of a configuration, with random parameters, on a mesh of these sizes."""
    return loaded_once(json.dumps(to_json(config)), sizes)


@pytest.fixture(scope="module")
def load(config):
    return lambda *sizes: loaded(config, sizes)


def images(count):
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), np.uint8)


class Data(EvaluationData):
    """COUNT examples in batches of other sizes; some have no caption, one could not be read."""

    def batches(self):
        rows = np.split(np.arange(COUNT + 4), [7, 15, 16])
        pixels = images(COUNT + 4)
        for part in rows:
            captions = [[] if i % 6 == 0 else [TEXTS[i % 6], "not this one"] for i in part]
            yield {
                "image": pixels[part],
                "captions": captions,
                "labels": [[]] * len(part),
                "label": np.full(len(part), -1),
                "fields": [{}] * len(part),
                "index": list(part),
                "bad_image": int(part[0] == 7),
            }


def evaluated(model, config, **options):
    evaluation = HeldOutLoss(name="things", split="test", num_images=1, **options)
    return evaluation.run(model, Data(model, config, evaluation.examples, pathlib.Path()))


def cross_entropy(logits, targets):
    logits = logits - logits.max(axis=-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(logs, targets[..., None], -1)[..., 0]


def by_numpy(model, size):
    """The metrics in float64, from embeddings and logits of the model's other functions."""
    numbers = [i for i in range(COUNT + 4) if i % 6]
    ids = model.tokenize([TEXTS[i % 6] for i in numbers])
    pixels = images(COUNT + 4)[numbers]
    pairs = model.encode_image(pixels), model.encode_text(ids)
    logits = model.caption_logits(pixels, ids).astype(float)
    scale = np.exp(float(model.params["logit_scale"]))
    nats, starts = 0.0, range(0, len(numbers), size)
    for start in starts:
        x, y = (e[start : start + size].astype(float) for e in pairs)
        similarity, target = scale * x @ y.T, np.arange(len(x))
        nats += cross_entropy(similarity, target).sum() + cross_entropy(similarity.T, target).sum()
    real = ids[:, 1:] != model.config.text.pad_id
    tokens = cross_entropy(logits[:, :-1], ids[:, 1:])
    right = logits[:, :-1].argmax(-1) == ids[:, 1:]
    contrastive, captioning = nats / len(numbers), tokens[real].mean()
    return {
        "loss": contrastive + 3 * captioning,
        "contrastive_loss": contrastive,
        "captioning_loss": captioning,
        "captioning_accuracy": right[real].mean(),
        "temperature": 1 / scale,
        "count": len(numbers),
        "without_text": COUNT + 4 - len(numbers),
        "bad_images": 1,
    }


@pytest.mark.parametrize(("sizes", "size"), [((1, 1, 1), None), ((1, 1, 1), 64), ((2, 2, 2), None)])
def test_losses_are_those_of_numpy_in_float64(load, config, sizes, size):
    metrics, artifacts = evaluated(load(*sizes), config, batch_size=size)
    expected = by_numpy(load(1, 1, 1), size or BATCH)
    assert next(iter(metrics)) == "loss" and not artifacts
    assert metrics.keys() == expected.keys() | {"contrastive_accuracy"}
    values = [metrics[name] for name in expected]
    np.testing.assert_allclose(values, list(expected.values()), rtol=2e-5)


def test_wrong_captions_are_compared_as_in_training(load, config):
    """More texts for each image make the loss larger, by as much as NumPy says."""

    class WithNegatives(Data):
        def batches(self):
            for batch in super().batches():
                # Of captions that are missing or not read, nothing is.
                wrong = [{"wrong": ["", TEXTS[(i + 1) % 6], ""]} for i in batch["index"]]
                stored = [["", *texts] for texts in batch["captions"]]
                yield batch | {"fields": wrong, "stored_captions": stored}

    config, model = copy.deepcopy(config), load(1, 1, 1)
    config.data.train.negatives = "wrong"
    evaluation = HeldOutLoss(name="things", split="test", num_images=1, batch_size=64)
    data = WithNegatives(model, config, evaluation.examples, pathlib.Path())
    metrics = evaluation.run(model, data)[0]
    numbers = [i for i in range(COUNT + 4) if i % 6]
    texts, wrong = (
        model.encode_text(model.tokenize([TEXTS[(i + more) % 6] for i in numbers])).astype(float)
        for more in (0, 1)
    )
    scale = np.exp(float(model.params["logit_scale"]))
    images_of = model.encode_image(images(COUNT + 4)[numbers]).astype(float)
    there = np.array([i % 6 != 5 for i in numbers])  # the text after the last one is empty
    logits = scale * images_of @ np.concatenate([texts, wrong[there]]).T
    target = np.arange(len(texts))
    nats = cross_entropy(logits, target) + cross_entropy(logits.T[: len(texts)], target)
    np.testing.assert_allclose(metrics["contrastive_loss"], nats.mean(), rtol=2e-5)
    assert metrics["negative_share"] == pytest.approx(there.mean())


def test_a_matching_head_judges_the_most_similar_wrong_pairs(config):
    """Of 19 pairs in blocks of 4, of which the last one has 3; equal texts are not wrong pairs."""
    config = copy.deepcopy(config)
    config.loss.matching.update({"weight": 1.0, "block_size": 4})
    model = loaded(config, (1, 1, 1))
    metrics = evaluated(model, config, batch_size=64)[0]
    numbers = [i for i in range(COUNT + 4) if i % 6]
    texts, pixels = [TEXTS[i % 6] for i in numbers], images(COUNT + 4)[numbers]
    pairs = model.matching_logits(pixels, texts).astype(float)  # of each image and each text
    one = model.matching_logits(pixels, texts[0])  # a str is one text
    np.testing.assert_allclose(one, pairs[:, :1], rtol=1e-4, atol=1e-4)
    similar = model.encode_image(pixels) @ model.encode_text(model.tokenize(texts)).T
    nats = []
    for i in range(len(texts)):
        block = range(i // 4 * 4, min(len(texts), i // 4 * 4 + 4))
        others = [j for j in block if texts[j] != texts[i]]
        text, image = (
            max(others, key=lambda j: similar[i, j]),
            max(others, key=lambda j: similar[j, i]),
        )
        wrong = pairs[i, text], pairs[image, i]
        nats.append(np.mean([np.log1p(np.exp(-pairs[i, i])), *np.log1p(np.exp(wrong))]))
    assert np.ptp(nats) > 1e-3
    np.testing.assert_allclose(metrics["matching_loss"], np.mean(nats), rtol=2e-5)


def test_two_evaluations_agree_to_the_bit(load, config):
    first, second = (evaluated(load(1, 1, 1), config)[0] for _ in range(2))
    assert first == second


def test_the_loss_is_that_of_a_train_step(load, config):
    """Of one batch, by the objective that training differentiates."""
    from coca_jax.train.gradient import Objective

    model, undropped = load(1, 1, 1), config.copy_and_resolve_references()
    undropped.model.dropout = 0.0
    objective = Objective(make_model(model_config(undropped)), trained_losses(build(config).loss))
    ids = model.tokenize([TEXTS[1]] * 3 + [TEXTS[3]] * 5)
    batch = {"image": images(8), "text": ids}
    values = model.losses(objective.losses, batch)

    @jax.jit
    def step(params, batch):
        output = objective.forward(params, batch, jax.random.key(0))
        return weighted_sum(objective.losses, output, objective.with_masks(batch, None))[1]

    metrics = step(model.params, batch)
    both = values["contrastive"][0] | values["captioning"][0]
    for name, value in both.items():
        assert value == pytest.approx(float(metrics[name]), rel=1e-5), name


def test_a_loss_that_the_model_was_not_trained_with_is_named(load, config):
    untrained = config.copy_and_resolve_references()
    untrained.loss.classification.weight = 1.0
    with pytest.raises(UserError, match=r"loss.classification.weight=1.0, and the model was train"):
        evaluated(load(1, 1, 1), untrained)


def test_a_loss_of_training_alone_is_no_loss_of_held_out_examples(config):
    """Without it the sum would be 0, which would be the best of all."""
    config = config.copy_and_resolve_references()
    evaluation = HeldOutLoss(name="a", split="b")
    config.update_from_flattened_dict(
        {"loss.distillation.weight": 1.0, "loss.distillation.teacher": "runs/teacher"}
    )
    assert not [*evaluation.conflicts(config)]
    config.update_from_flattened_dict({"loss.contrastive.weight": 0, "loss.captioning.weight": 0})
    (message,) = evaluation.conflicts(config)
    assert "config.loss trains distillation alone" in message


def test_its_options():
    [evaluation] = parse_evals({"held_out": {"kind": "loss", "name": "a", "split": "b"}}).values()
    assert evaluation == HeldOutLoss(name="a", split="b")
    with pytest.raises(UserError, match=r"eval.a.batch_size=0 should be"):
        parse_evals({"a": {"kind": "loss", "name": "a", "split": "b", "batch_size": 0}})


def test_a_head_has_the_loss_of_its_labeled_examples(config):
    config = config.copy_and_resolve_references()
    losses = {"contrastive": 0.0, "captioning": 0.0, "classification": 2.0}
    changes = {f"loss.{name}.weight": weight for name, weight in losses.items()}
    config.update_from_flattened_dict(changes | {"data.train.captions": "none"})
    config.head.classes = ("one", "two", "three")
    model = loaded(config, (2, 1, 1))
    labels = np.array([0, 2, 1, -1, 2, 0, 9, 1, 1, 2, 0])  # no label; one that no class has

    class Labeled(Data):
        def batches(self):
            rows = range(len(labels))
            yield {
                "image": images(len(labels)),
                **{"captions": [[]] * len(labels), "labels": [[]] * len(labels)},
                **{"label": labels, "fields": [{}] * len(labels), "index": list(rows)},
            }

    evaluation = HeldOutLoss(name="things", split="test", num_images=1)
    data = Labeled(model, config, evaluation.examples, pathlib.Path())
    metrics, _ = evaluation.run(model, data)
    real = (labels >= 0) & (labels < 3)
    logits = model.classify(images(len(labels))[real]).astype(float)
    nats = cross_entropy(logits, labels[real]).mean()
    assert metrics["classification_loss"] == pytest.approx(nats, rel=1e-5)
    assert metrics["loss"] == pytest.approx(2 * nats, rel=1e-5)
    assert (metrics["count"], metrics["without_text"]) == (10, 1)
