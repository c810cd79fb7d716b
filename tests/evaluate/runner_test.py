import dataclasses
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate import data, runner
from coca_jax.evaluate.base import Model
from coca_jax.evaluate.features import Features
from coca_jax.evaluate.parsing import eval_errors, parse_evals
from coca_jax.evaluate.prompts import DEFAULT
from coca_jax.evaluate.registry import evaluations as registry

DATA = {"name": "things", "split": "test", "limit": 2}


def evaluations(**kinds):
    return ConfigDict({name: {**DATA, **options} for name, options in kinds.items()})


class MemoryData(data.EvaluationData):
    """Two images, a cat and a dog, of any data set; notes which examples are read."""

    batches_read, make_batches = [], None

    @property
    def class_names(self):
        return ["cat", "dog"]

    def batches(self):
        self.batches_read.append(self.examples)
        return self.make_batches([["cat"], ["dog"]], [0, 1], [1, 1])

    def labeled_batches(self, class_names=()):
        return iter(self.batches())


@pytest.fixture
def run(fake_model, batches, tmp_path, monkeypatch):
    """A function that runs evaluations on MemoryData: results, model, and what was read."""
    monkeypatch.setattr(MemoryData, "make_batches", staticmethod(batches))
    texts = {"cat": [1, 0], "dog": [0, 1], "the cat": [1, 0], "the dog": [0, 1]}
    model = fake_model({0: [1, 0.1], 1: [0.1, 1]}, texts, {0: "cat", 1: "cat"})
    assert isinstance(model, Model)

    def run(config):
        monkeypatch.setattr(MemoryData, "batches_read", [])
        config, computed = ConfigDict({"eval": config, "data": {"num_images": 1}}), {}

        def data_of(evaluation):
            examples = data.examples_of(evaluation, config)[0]
            return MemoryData(model, config, examples, tmp_path, computed)

        results = runner.run_evaluations(model, parse_evals(config.eval), data_of)
        return results, model, MemoryData.batches_read

    return run


def test_the_images_are_encoded_once_for_all_evaluations_of_them(run):
    config = evaluations(
        classes={"kind": "zero_shot", "templates": ["the {}"]},
        search={"kind": "retrieval", "captions": "first"},
        captions={"kind": "captioning", "method": "beam", "beams": 3},
    )
    results, model, read = run(config)
    assert not results.failures
    assert results.metrics.keys() == results.artifacts.keys() == {"classes", "search", "captions"}
    assert results.metrics["classes"]["top1"] == 1
    assert results.metrics["search"]["text_to_image_r1"] == 1
    assert results.metrics["captions"]["exact_match"] == 0.5
    assert model.options == {"method": "beam", "beams": 3}
    assert model.images_encoded == 2
    assert len(read) == 2  # once for all embeddings, once for the captions


def test_embeddings_of_other_examples_are_not_taken(run):
    _, model, read = run(
        evaluations(one={"kind": "retrieval"}, two={"kind": "retrieval", "limit": 1})
    )
    assert model.images_encoded == 4 and [examples.limit for examples in read] == [2, 1]


def test_an_evaluation_that_fails_leaves_the_results_of_the_rest(run):
    config = evaluations(
        bad={"kind": "matching"}, fine={"kind": "retrieval"}, worse={"kind": "vqa"}
    )
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("matching", "vqa"):
            patch.setattr(registry[kind], "run", failing(f"no {kind}"))
        results, _, _ = run(config)
    assert results.metrics.keys() == results.artifacts.keys() == {"fine"}
    with pytest.raises(UserError) as failure:
        results.raise_failures()
    assert str(failure.value) == "eval.bad: no matching\neval.worse: no vqa"
    results._replace(failures={}).raise_failures()


def failing(message):
    def run(self, model, data):
        raise UserError(message)

    return run


def test_errors_come_all_at_once():
    config = evaluations(
        a={"kind": "zeroshot"},
        b={"kind": "retrieval", "captions": "some", "templates": []},
        c={"kind": "zero_shot", "templates": ["a photo"]},
        d={"kind": "captioning", "num_images": 2},
        fine={"kind": "captioning"},
    )
    del config.c["split"]
    assert eval_errors(config) == [
        "config.eval.a.kind='zeroshot' should be one of zero_shot, retrieval, captioning, vqa, "
        "classification, matching, probe, loss",
        "config.eval.b.captions='some' should be one of all, first",
        "config.eval.b.templates=[] is unknown; there are format, name, split, path, "
        "image_keys, text_keys, class_names, limit, num_images, captions, rerank, rerank_by",
        "config.eval.c.templates=['a photo'] should be texts with {} for the class name, "
        "or a file of them, or imagenet",
        "config.eval.c.split='': format 'tfds' needs a split",
        "config.eval.d.num_images=2: captioning takes one image of an example",
    ]
    (error,) = eval_errors({"a/b": DATA | {"kind": "captioning"}})
    assert error == "config.eval: 'a/b' should have no /, as metrics follow one"
    with pytest.raises(UserError, match=r"(?s)eval\.a\.kind.*eval\.c\.templates"):
        parse_evals(config)


def test_errors_of_captioning():
    config = evaluations(
        a={"kind": "captioning", "method": "best"},
        b={"kind": "captioning", "method": "beam", "beams": 3, "top_k": 2},
        c={"kind": "captioning", "repetition_penalty": 0.0},
        d={"kind": "zero_shot", "scoring": "chance"},
        e={"kind": "captioning", "seed": 3},
        fine={"kind": "captioning", "method": "beam", "beams": 3, "length": 9, "prompt": "a"},
        random={"kind": "captioning", "method": "sample", "seed": 3},
    )
    assert eval_errors(config) == [
        "config.eval.a.method='best' should be one of greedy, sample, beam",
        "config.eval.b.method='beam': captioning method beam has no option top_k; it has beams, "
        "n_best, length_penalty, early_stopping",
        "config.eval.c.repetition_penalty=0.0 should be a number above 0 and at most 1e+38",
        "config.eval.d.scoring='chance' should be one of embeddings, captions",
        "config.eval.e.method='greedy': captioning method greedy has no option seed; it has none",
    ]


def test_a_probe_learns_from_the_data_that_it_names(run, monkeypatch):
    config = evaluations(
        probe={"kind": "probe", "train_split": "train", "train_limit": 9, "steps": 20}
    )
    read = []

    def features(self):
        read.append((self.examples.name, self.examples.split, self.examples.limit))
        tokens = np.array([[[1, 0]], [[0, 1]]] * 5, np.float16)
        return Features(tokens, np.array([0, 1] * 5))

    monkeypatch.setattr(MemoryData, "features", features)
    metrics = run(config)[0].metrics["probe"]
    assert read == [("things", "train", 9), ("things", "test", 2)]
    assert metrics["top1"] == 1 and metrics["train_count"] == 10
    names = property(
        lambda self: {"train": ["ant", "bee", "cow"], "test": ["ant", "cow"]}[self.examples.split]
    )
    monkeypatch.setattr(MemoryData, "class_names", names)
    message = "eval.probe: the classes .*, 3, are not the 2 .*: label 1 is 'bee' and 'cow'"
    with pytest.raises(UserError, match=message):
        run(config)[0].raise_failures()


def test_heads_are_checked_before_features_are_computed(run, fake_model, monkeypatch):
    shape = types.SimpleNamespace(image=types.SimpleNamespace(width=10))
    monkeypatch.setattr(fake_model, "config", shape, raising=False)
    monkeypatch.setattr(MemoryData, "features", lambda self: pytest.fail("computed"))
    probe = {"kind": "probe", "train_split": "train", "scoring": "pooler"}
    with pytest.raises(UserError, match=r"eval\.probe: num_heads=4 should divide .*, 10"):
        run(evaluations(probe=probe))[0].raise_failures()


def test_errors_of_probes():
    config = evaluations(
        a={"kind": "probe"},
        b={"kind": "probe", "train_split": "train", "scoring": "pooler", "l2": 0.1},
        c={"kind": "probe", "train_split": "train", "train_limit": 0, "scoring": "guess"},
    )
    assert eval_errors(config) == [
        "config.eval.a.train_split or train_path should say what the probe learns from",
        "config.eval.b.l2=0.1 has no effect: scoring='pooler' has the options num_heads, steps, "
        "batch_size, learning_rate, weight_decay, label_smoothing, seed",
        "config.eval.c.scoring='guess' should be one of linear, pooler",
        "config.eval.c.train_limit=0 should be None, or a whole number from 1 to 2,147,483,647",
    ]
    for penalty in ((), "1e-4", -1.0):
        config = evaluations(a={"kind": "probe", "train_split": "a", "l2": penalty})
        assert eval_errors(config) == [
            f"config.eval.a.l2={penalty!r} should be a number of at least 0 and at most 1e+38, or "
            "several to try"
        ]


def test_which_evaluations_require_what_and_take_several_images():
    for kind, options, requires, several in [
        ("matching", {}, "contrastive", True),
        ("matching", {"scoring": "captions"}, "captioning", False),
        ("zero_shot", {}, "contrastive", True),
        ("zero_shot", {"scoring": "captions"}, "captioning", False),
        ("retrieval", {}, "contrastive", True),
        ("vqa", {}, "captioning", False),
        ("vqa", {"scoring": "head"}, "classification", True),
        ("classification", {}, "classification", True),
        ("captioning", {}, "captioning", False),
        ("probe", {"train_split": "train"}, "", False),
    ]:
        (evaluation,) = parse_evals(evaluations(mine={"kind": kind, **options})).values()
        required = (requires,) if requires else ()
        assert (evaluation.required_losses, evaluation.several_images) == (required, several), kind


def test_templates_are_next_to_data_that_are_a_folder_only(fake_model, fake_data, batches):
    (evaluation,) = parse_evals(
        evaluations(classes={"kind": "zero_shot", "path": ("a.tar", "b.tar")})
    ).values()
    unit = {"cat": [1, 0], "dog": [0, 1]}
    model = fake_model({0: [1, 0]}, {t.format(n): v for t in DEFAULT for n, v in unit.items()})
    made = fake_data(batches([[]], [0], [1]), ["cat", "dog"], model=model)
    assert evaluation.run(model, made)[0]["top1"] == 1


def test_every_default_is_allowed_and_every_option_has_a_kind():
    for kind in registry:
        fields = dataclasses.fields(registry[kind])
        assert all(f.metadata["kind"].holds(f.default) for f in fields), kind
