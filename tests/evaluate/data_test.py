"""Evaluations on real data by a real, untrained model."""

import dataclasses
import json
import shutil
import tarfile
import types

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest
from broken_data import write_tar
from memory_source import MemorySource, record
from ml_collections import ConfigDict

from coca_jax.config import load_config, model_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.transforms import images
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate import data, runner
from coca_jax.evaluate.base import Examples
from coca_jax.inference import LoadedModel
from coca_jax.models import CoCa, HeadConfig, ImageConfig, init_params

PROBE = {
    "kind": "probe",
    "name": "shapes",
    "split": "test",
    "train_split": "train",
    "train_limit": 64,
    "limit": 32,
    "steps": 20,
}


def evaluate(model, config):
    """Metrics and artifacts of evaluations none of which fails."""
    results = runner.evaluate(model, config)
    results.raise_failures()
    return results.metrics, results.artifacts


@pytest.fixture(scope="module")
def config(prepared):
    config = load_config("configs/shapes.py:smoke")
    config.data.dir = prepared
    return config


@pytest.fixture(scope="module")
def model(config):
    model = CoCa(model_config(config))
    params = nn.meta.unbox(jax.jit(lambda key: init_params(model, key))(jax.random.key(0)))
    partitioner = Partitioner(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    return LoadedModel(model, params, make_tokenizer("byte", ""), partitioner, 1, "these")


def test_images_are_resized_as_the_model_says(config, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 20, 3), np.uint8)
    source = MemorySource([record(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes(), ["a"])])
    monkeypatch.setattr(data, "open_examples", lambda examples, config: source)
    image = ImageConfig(size=8, resize_mode="longest", interpolation="bilinear", fill_color=7)
    model = types.SimpleNamespace(config=types.SimpleNamespace(image=image))
    examples = Examples(num_images=1)
    (batch,) = data.EvaluationData(model, config, examples, tmp_path).batches()
    expected = images.resize_for_evaluation(pixels, (8, 8), images.Resizing.of(image))
    np.testing.assert_array_equal(batch["image"][0], expected)


def test_an_evaluation_is_stopped_between_its_batches(config, model, monkeypatch):
    asked = iter([False, False, True])  # before the evaluation, and its first two batches
    monkeypatch.setattr(data, "BATCH_SIZE", 8)
    config.eval = {"retrieval": {"kind": "retrieval", "name": "shapes", "split": "test"}}
    results = runner.evaluate(model, config, should_stop=lambda: next(asked))
    assert not results.metrics and not results.failures
    assert next(asked, None) is None


def test_features_are_kept_for_parameters_that_stay(config, model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config.eval = {"probe": PROBE}
    metrics, artifacts = evaluate(model, config)
    assert 0 < metrics["probe"]["count"] < 32 and 0 < metrics["probe"]["train_count"] < 64
    assert len(artifacts["probe"]["class_names"]) == 64
    kept = sorted(tmp_path.glob("coca_jax/features/*/tokens.npy"))
    assert len(kept) == 2
    changed = [path.stat().st_mtime_ns for path in kept]
    assert evaluate(model, config)[0] == metrics
    assert [path.stat().st_mtime_ns for path in kept] == changed
    moving = model.with_params(model.params)
    assert evaluate(moving, config)[0] == metrics
    assert len(list(tmp_path.glob("coca_jax/features/*"))) == 2


def test_features_of_data_that_changed_are_not_read_again(config, model, tmp_path, monkeypatch):
    def read_features(model, batches, folder):
        raise UserError(folder.name)

    def folder_of(*colors):
        samples = [{"png": png(color), "cls": b"0"} for color in colors]
        write_tar(tmp_path / "a.tar", samples)
        with pytest.raises(UserError) as failure:
            evaluate(model, config)
        return str(failure.value)

    monkeypatch.setattr(data, "read_features", read_features)
    path = {"path": str(tmp_path / "a.tar"), "train_path": str(tmp_path / "a.tar")}
    config.eval = {"probe": {"kind": "probe", "format": "webdataset", **path}}
    before = folder_of(1, 2)
    assert folder_of(1, 2) == before != folder_of(1, 200)


def test_tokens_are_the_encoders(config, model):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    tokens, image = model.image_tokens(images), model.config.image
    assert tokens.shape == (3, image.tokens, image.width) and tokens.dtype == np.float32
    np.testing.assert_allclose(model.image_tokens(images[1:2])[0], tokens[1], atol=1e-5)


def test_the_data_to_learn_from_are_looked_for_before_anything_runs(config):
    config.eval = {"probe": PROBE | {"train_split": "trian"}}
    with pytest.raises(UserError, match=r"config\.eval\.probe: .*no split 'trian'"):
        runner.check_eval_data(config)


def test_what_is_lost_of_an_evaluations_data_is_told_once(config, tmp_path, capsys):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "1.input.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    config.eval = {
        "mine": {"kind": "retrieval", "format": "webdataset", "path": str(tmp_path / "a.tar")}
    }
    runner.check_eval_data(config)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: config.eval.mine: 1 sample has no image") and "input" in line


@pytest.fixture
def table(tmp_path):
    """A function that writes a table of plain images from its rows, and returns its path."""
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((32, 32, 3), 90, np.uint8))

    def written(*rows):
        path = tmp_path / "table.jsonl"
        path.write_text("".join(json.dumps({"image": "gray.png"} | row) + "\n" for row in rows))
        return {"kind": "zero_shot", "format": "folder", "path": str(path)}

    return written


def evaluated(config, model, evaluation):
    config.eval = {"mine": evaluation}
    runner.check_eval_data(config)
    return evaluate(model, config)


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([{"label": "dgo"}], "cat\ndog", "has the label 'dgo', which is none of the 2 class names"),
        ([{"label": 2}], "cat\ndog", "the label is 2; it should be a number from 0 to 1"),
        ([{}], "cat\ndog", "no example has one"),
        ([{"label": 0}], "", "set class_names, a file with a name a line"),
        ([], "cat\ndog", r"the table .*table\.jsonl holds no rows"),
        (
            [{"image": "absent.png"}],
            "cat\ndog",
            r"none of the 1 images.*table\.jsonl: .*absent\.png",
        ),
    ],
)
def test_data_that_cannot_be_evaluated_on(config, model, table, tmp_path, rows, names, message):
    evaluation = table(*rows)
    if names:
        (tmp_path / "names.txt").write_text(names)
        evaluation["class_names"] = str(tmp_path / "names.txt")
    with pytest.raises(UserError, match=rf"eval\.mine: .*{message}"):
        evaluated(config, model, evaluation)


def test_an_empty_split_is_found_before_anything_runs(config, model):
    empty = {"kind": "retrieval", "name": "shapes", "split": "test[:0]"}
    with pytest.raises(UserError, match=r"split 'test\[:0\]' of data set 'shapes' is empty"):
        evaluated(config, model, empty)


def test_class_names_as_many_as_the_data_sets(config, model, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog")
    evaluation = {"kind": "zero_shot", "name": "shapes", "split": "test"}
    with pytest.raises(UserError, match=r"names\.txt names 2 classes, and the data set has 64"):
        evaluated(config, model, evaluation | {"class_names": str(tmp_path / "names.txt")})


def test_an_absent_image_is_left_out_counted_and_named(config, model, table, capsys):
    rows = {"captions": ["a cat"]}, {"captions": ["a dog"], "image": "absent.png"}
    metrics, _ = evaluated(config, model, table(*rows) | {"kind": "retrieval"})
    assert metrics["mine"]["bad_images"] == metrics["mine"]["images"] == 1
    printed = capsys.readouterr().err
    assert "1 of 2 images are left out: record 1 of " in printed and "absent.png" in printed


HEAD = {
    "loss.classification.weight": 1.0,
    "head.classes": ("a", "b"),
    "data.train.captions": "first",
}


def with_head(config, **changes):
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(HEAD | changes)
    config.eval = {"mine": {"kind": "classification", "name": "shapes", "split": "test"}}
    return config


def test_labels_of_a_table_may_be_names_of_the_heads_classes(
    config, model, table, tmp_path, monkeypatch
):
    shutil.copy(tmp_path / "gray.png", tmp_path / "too.png")
    headed = dataclasses.replace(model.config, head=HeadConfig(2))
    monkeypatch.setattr(model, "config", headed)
    monkeypatch.setattr(model, "classify", lambda pixels: np.array([[0.0, 1.0]] * len(pixels)))
    changed = with_head(config)
    evaluation = table({"label": "b"}, {"label": "a", "image": "too.png"}) | {
        "kind": "classification"
    }
    metrics, _ = evaluated(changed, model, evaluation)
    assert metrics["mine"]["top1"] == 0.5 and metrics["mine"]["count"] == 2
    asked = {"questions": ["is it?"], "answers": ["b"], "label": "c"}  # labels do not matter here
    monkeypatch.setattr(model, "classify", lambda pixels, texts: np.array([[0.0, 1.0]]))
    changed.head.input = "text"
    reader = dataclasses.replace(headed, head=HeadConfig(2, input="text"))
    monkeypatch.setattr(model, "config", reader)
    by_text = {"kind": "classification", "questions": ("questions", "answers")}
    assert evaluated(changed, model, table(asked) | by_text)[0]["mine"]["top1"] == 1
    changed.head.input = "image"
    monkeypatch.setattr(model, "config", headed)
    with pytest.raises(UserError, match="has the label 'c', which is none of the 2 class names"):
        evaluated(changed, model, table({"label": "c"}) | {"kind": "classification"})


def test_what_no_evaluation_can_do_with_a_model_is_said(config):
    config = ConfigDict(config.to_dict())
    model = dataclasses.replace(model_config(config), captioning=False)
    runner.require_runnable(config, model)
    config.eval = {"mine": {"kind": "captioning", "name": "shapes", "split": "test"}}
    message = r"config\.eval\.mine needs a model that was trained with the captioning loss"
    with pytest.raises(UserError, match=message):
        runner.require_runnable(config, model)


def test_an_evaluation_may_need_several_losses(config):
    """Re-ranking needs embeddings, too, which a model of captions alone has not."""
    config = ConfigDict(config.to_dict())
    config.eval = {"mine": {"kind": "retrieval", "name": "a", "split": "test", "rerank": 4}}
    runner.require_runnable(config, model_config(config))
    for change in ({"contrastive": "none"}, {"captioning": False}):
        model = dataclasses.replace(model_config(config), **change)
        assert not runner.runnable_evals(config, model)
        with pytest.raises(UserError, match="with the contrastive and captioning losses"):
            runner.require_runnable(config, model)
    config.data.num_images = 2
    with pytest.raises(UserError, match=r"eval\.mine\.rerank=4: .* config\.data\.num_images=2"):
        runner.runnable_evals(config, model)


def test_a_head_that_is_not_there_is_said(config, model):
    with pytest.raises(UserError, match=r"eval\.mine: needs a head, and the model has none"):
        evaluate(model, with_head(config))
    model = dataclasses.replace(model.config, head=HeadConfig(3))
    with pytest.raises(UserError, match=r"classes are 2, and the model's head has 3"):
        runner.runnable_evals(with_head(config), model)


def test_clips_and_blank_images(config, model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        model, "encode_image", lambda x: seen.append(x) or np.ones((len(x), 2), np.float32)
    )
    monkeypatch.setattr(model, "encode_text", lambda x: np.ones((len(x), 2), np.float32))
    config = ConfigDict(config.to_dict())
    config.eval = {
        "mine": {"kind": "retrieval", "name": "shapes", "split": "test", "num_images": 3}
    }
    evaluate(model, config)
    assert seen[-1].shape[1:] == (3, 32, 32, 3) and seen[-1].std() > 0
    config.data.blank_images = True
    evaluate(model, config)
    assert (seen[-1] == 128).all()


def png(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def test_a_tar_with_a_sample_for_each_caption(config, model, tmp_path):
    captions = [[f"{word} {i}" for word in ("one", "two", "three")] for i in range(12)]
    whole = [
        {"png": png(i), "json": json.dumps({"captions": texts}).encode()}
        for i, texts in enumerate(captions)
    ]
    # One after the other round, so that the samples of an image are far apart.
    each = [
        {"png": png(i), "txt": texts[n].encode(), "json": json.dumps({"image_id": i}).encode()}
        for n in range(3)
        for i, texts in enumerate(captions)
    ]
    bare = [{key: sample[key] for key in ("png", "txt")} for sample in each]
    config.eval = {}
    for name, samples in (("whole", whole), ("each", each), ("bare", bare)):
        write_tar(tmp_path / f"{name}.tar", samples)
        path = str(tmp_path / f"{name}.tar")
        config.eval[name] = {"kind": "retrieval", "format": "webdataset", "path": path}
    metrics, _ = evaluate(model, config)
    assert (metrics["whole"]["images"], metrics["whole"]["texts"]) == (12, 36)
    assert metrics["each"] == metrics["bare"] == metrics["whole"]


def test_labels_that_no_class_has_are_left_out_and_counted(config, model, tmp_path, capsys):
    labels = (b"0", b"9" * 30, b"1", b"-7", b"NaN", b"2", b"1.5")
    write_tar(tmp_path / "a.tar", [{"png": png(i), "cls": text} for i, text in enumerate(labels)])
    (tmp_path / "names.txt").write_text("cat\ncat\n")
    section = {"format": "webdataset", "path": str(tmp_path / "a.tar")}
    section |= {"kind": "zero_shot", "class_names": str(tmp_path / "names.txt")}
    config.eval = {"mine": section}
    metrics, artifacts = evaluate(model, config)
    assert (metrics["mine"]["count"], metrics["mine"]["bad_images"]) == (2, 5)
    assert metrics["mine"]["top1"] == 1  # two classes that cannot be distinguished
    assert artifacts["mine"]["per_class"] == {"cat (0)": 1, "cat (1)": 1}
    assert "5 of 7 images are left out: record 1" in capsys.readouterr().err
