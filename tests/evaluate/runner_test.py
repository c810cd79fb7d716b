import numpy as np
import pytest
from ml_collections import ConfigDict

from coca_jax.errors import UserError
from coca_jax.evaluate import runner
from coca_jax.evaluate.features import Features
from coca_jax.evaluate.handle import Handle
from coca_jax.evaluate.prompts import DEFAULT

DATA = {"name": "things", "split": "test", "limit": 2}


def evaluations(**kinds):
    return ConfigDict({name: {**DATA, **options} for name, options in kinds.items()})


def run(fake_handle, batches, config):
    texts = {"cat": [1, 0], "dog": [0, 1], "the cat": [1, 0], "the dog": [0, 1]}
    handle = fake_handle({0: [1, 0.1], 1: [0.1, 1]}, texts, {0: "cat", 1: "cat"})
    assert isinstance(handle, Handle)
    asked = []

    def make_batches(evaluation):
        asked.append(evaluation.kind)
        return batches([["cat"], ["dog"]], [0, 1], [1, 1])

    results = runner.run_evaluations(handle, config, make_batches, lambda _: ["cat", "dog"])
    return *results, handle, asked


def test_every_kind_runs_and_the_images_are_encoded_once(fake_handle, batches):
    config = evaluations(
        classes={"kind": "zero_shot", "templates": ["the {}"]},
        search={"kind": "retrieval", "captions": "first"},
        captions={"kind": "captioning"},
    )
    metrics, artefacts, handle, asked = run(fake_handle, batches, config)
    assert metrics.keys() == artefacts.keys() == {"classes", "search", "captions"}
    assert metrics["classes"]["top1"] == 1
    assert metrics["search"]["text_to_image_r1"] == 1
    assert metrics["captions"]["exact_match"] == 0.5
    assert handle.images_encoded == 2
    assert len(asked) == 2  # once for all embeddings, once for the captions


def test_other_data_are_not_taken_from_the_cache(fake_handle, batches):
    config = evaluations(one={"kind": "retrieval"}, two={"kind": "retrieval", "limit": 1})
    _, _, handle, asked = run(fake_handle, batches, config)
    assert handle.images_encoded == 4
    assert len(asked) == 2


def test_mistakes_come_all_at_once(fake_handle):
    config = evaluations(
        a={"kind": "zeroshot"},
        b={"kind": "retrieval", "captions": "some", "templates": []},
        c={"kind": "zero_shot", "templates": ["a photo"]},
        fine={"kind": "captioning"},
    )
    del config.c["split"]
    assert runner.mistakes(config) == [
        "config.eval.a.kind='zeroshot' should be one of zero_shot, retrieval, captioning, vqa, "
        "classification, matching, probe",
        "config.eval.b.templates=[] is unknown; retrieval has kind, format, name, split, path, "
        "image_keys, text_keys, class_names, limit, num_images, captions",
        "config.eval.b.captions='some' should be one of all, first",
        "config.eval.c.templates=['a photo'] should be texts with {} for the class name, "
        "or a file of them, or imagenet",
        "config.eval.c.split is missing",
    ]
    with pytest.raises(UserError, match=r"(?s)eval\.a\.kind.*eval\.c\.templates"):
        runner.run_evaluations(fake_handle({}, {"x": [1]}), config, lambda _: [], lambda _: [])


def test_mistakes_of_captioning():
    config = evaluations(
        a={"kind": "captioning", "method": "best"},
        b={"kind": "captioning", "method": "beam", "beams": 3, "top_k": 2},
        c={"kind": "captioning", "repetition_penalty": 0.0},
        d={"kind": "zero_shot", "by": "chance"},
        fine={"kind": "captioning", "method": "beam", "beams": 3, "length": 9, "prompt": "a"},
    )
    assert runner.mistakes(config) == [
        "config.eval.a: captioning method 'best' does not exist; there are greedy, sample, beam",
        "config.eval.b: captioning method beam has no option top_k; it has beams, n_best, "
        "length_penalty, early_stopping",
        "config.eval.c.repetition_penalty=0.0 should be a number above 0 and at most 1e+38",
        "config.eval.d.by='chance' should be one of embeddings, captions",
    ]


def test_captions_by_the_configured_method(fake_handle, batches):
    handle = fake_handle({}, {"x": [1]}, {0: "a", 1: "a"})
    config = evaluations(mine={"kind": "captioning", "method": "beam", "beams": 3, "limit": 2})
    made = lambda _: batches([["a"], ["b"]], [0, 0], [2])  # noqa: E731
    metrics, _ = runner.run_evaluations(handle, config, made, lambda _: [])
    assert handle.options == {"method": "beam", "beams": 3}
    assert metrics["mine"]["exact_match"] == 0.5


def test_an_error_in_the_data_names_the_evaluation(fake_handle, batches):
    handle = fake_handle({}, {"x": [1]})
    config = evaluations(mine={"kind": "retrieval"})
    with pytest.raises(UserError, match=r"eval\.mine: .*no examples"):
        runner.run_evaluations(handle, config, lambda _: iter([]), lambda _: [])


def test_a_probe_learns_from_the_data_that_it_names(fake_handle):
    config = evaluations(
        probe={"kind": "probe", "train_split": "train", "train_limit": 9, "steps": 20}
    )
    asked = []

    def features(evaluation):
        asked.append((evaluation.name, evaluation.split, evaluation.get("limit")))
        tokens = np.array([[[1, 0]], [[0, 1]]] * 5, np.float16)
        return Features(tokens, np.array([0, 1] * 5))

    handle = fake_handle({0: [1]}, {"x": [1]})
    metrics, _ = runner.run_evaluations(
        handle, config, lambda _: [], lambda _: ["cat", "dog"], features
    )
    assert asked == [("things", "train", 9), ("things", "test", 2)]
    assert metrics["probe"]["top1"] == 1 and metrics["probe"]["train_count"] == 10
    assert runner.needs(config.probe) == ""


def test_mistakes_of_probes():
    config = evaluations(
        a={"kind": "probe"},
        b={"kind": "probe", "train_split": "train", "by": "pooler", "l2": 0.1},
        c={"kind": "probe", "train_split": "train", "train_limit": 0, "by": "guess"},
    )
    found = runner.mistakes(config)
    assert found[0] == "config.eval.a needs train_split or train_path: what the probe learns from"
    assert found[1].startswith("config.eval.b.l2=0.1 is unknown; probe has ")
    assert "label_smoothing" in found[1]
    for penalty in ((), "1e-4", -1.0):
        config = evaluations(a={"kind": "probe", "train_split": "a", "l2": penalty})
        assert runner.mistakes(config) == [
            f"config.eval.a.l2={penalty!r} should be a number of at least 0 and at most 1e+38, or "
            "several to try"
        ]
    assert "eval.c.train_limit=0 should" in found[2] and "eval.c.by='guess' should" in found[3]
    config = evaluations(
        a={"kind": "probe", "train_split": "a", "by": "pooler", "num_heads": 0, "batch_size": "x"},
        c={"kind": "probe", "train_split": "a", "steps": None},
        b={"kind": "probe", "train_split": "a", "by": "pooler", "learning_rate": -1e-3},
    )
    assert runner.mistakes(config) == [
        "config.eval.a.num_heads=0 should be a whole number from 1 to 65,536",
        "config.eval.a.batch_size='x' should be a whole number from 1 to 16,777,216",
        "config.eval.b.learning_rate=-0.001 should be a number of at least 0 and at most 1e+38",
        "config.eval.c.steps=None should be a whole number from 1 to 2,147,483,647",
    ]


def test_a_probe_learns_the_classes_that_it_is_tested_on(fake_handle):
    config = evaluations(probe={"kind": "probe", "train_split": "train"})
    names = {"train": ["ant", "bee", "cow"], "test": ["ant", "cow"]}
    message = "eval.probe: the classes .*, 3, are not the 2 .*: label 1 is 'bee' and 'cow'"
    with pytest.raises(UserError, match=message):
        runner.run_evaluations(
            fake_handle({}, {"x": [1]}), config, lambda _: [], lambda e: names[e.split]
        )


def test_templates_are_beside_data_that_are_a_folder_only(fake_handle, batches):
    config = evaluations(classes={"kind": "zero_shot", "path": ("a.tar", "b.tar")})
    assert runner.mistakes(config) == []
    unit = {"cat": [1, 0], "dog": [0, 1]}
    handle = fake_handle({0: [1, 0]}, {t.format(n): v for t in DEFAULT for n, v in unit.items()})
    made = (lambda _: batches([[]], [0], [1])), (lambda _: ["cat", "dog"])
    assert runner.run_evaluations(handle, config, *made)[0]["classes"]["top1"] == 1
