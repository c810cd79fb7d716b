"""Distillation from a loaded model: what it adds to a batch, a run with it, and bad teachers."""

import contextlib
import shutil

import jax
import numpy as np
import pytest
from small_run import make_config

from coca_jax import inference
from coca_jax.checkpoints.metadata import Saved, newest
from coca_jax.config import model_config
from coca_jax.data.packing import PackingConfig, pack
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.inference.loading import find_checkpoint
from coca_jax.observe.writers import read_metrics
from coca_jax.planning import training_flops
from coca_jax.train import loop, resume, teacher
from coca_jax.train.experiment import build
from coca_jax.train.metric_accumulator import MetricAccumulator
from coca_jax.train.teacher import Teacher, find_teacher


def distilling(prepared, path, **changes):
    return make_config(
        prepared,
        (),
        **{"loss.distillation.weight": 0.5, "loss.distillation.teacher": str(path)},
        **changes,
    )


def tokenizer_file(workdir):
    return str(workdir / "tokenizer.model")


def test_a_batch_gets_the_embeddings_of_the_loaded_teacher(small_run, prepared, uncached):
    rng, loaded = np.random.default_rng(0), inference.load(small_run)
    words = ["a red circle", "an orange star and a ring", "a cross", "two"] * 8
    ids = loaded.tokenize(words)
    batch = {"image": rng.integers(0, 256, (32, 32, 32, 3)).astype(np.uint8), "text": ids}
    images, texts = loaded.encode_image(batch["image"]), loaded.encode_text(ids)
    source = find_teacher(distilling(prepared, small_run), tokenizer_file(small_run))
    scale = float(np.exp(loaded.params["logit_scale"]))
    order, packed, segments, _ = pack(ids, 0, PackingConfig(2, 2 * ids.shape[1]))
    shared = {"image": batch["image"][order], "text": packed, "text_segment_ids": segments}
    mesh = {"data": 4, "fsdp": 1, "tensor": 1}
    for devices, count, given, rows in ((4, 2, batch, range(32)), (1, 1, shared, order)):
        partitioner = Partitioner(make_mesh(mesh | {"data": devices}, jax.devices()[:devices]))
        taught = Teacher(source, partitioner, count)(partitioner.put_batch(given))
        np.testing.assert_allclose(taught["teacher_images"], scale * images[rows], atol=2e-5)
        np.testing.assert_allclose(taught["teacher_texts"], texts[rows], atol=2e-6)
        assert taught["image"].shape == (32, 32, 32, 3)


def test_a_resumed_run_has_the_same_teacher(small_run, prepared, tmp_path, capsys):
    config = distilling(prepared, small_run)
    first = build(config, tmp_path / "run")
    assert first.teacher.identity == find_checkpoint(small_run).identity
    saved = Saved(2, resume.metadata(first, 2, {}, {}))
    file = tokenizer_file(small_run)
    shutil.copytree(small_run, tmp_path / "moved")
    moved, other = (distilling(prepared, tmp_path / name) for name in ("moved", "other"))
    assert find_teacher(moved, file, saved).folder == tmp_path / "moved"
    changed = {"teacher": saved.metadata["teacher"] | {"identity": "of another model"}}
    for again, record in ((moved, changed), (other, saved.metadata)):
        with pytest.raises(UserError, match=r"teacher=.* should be the model that the run began"):
            find_teacher(again, file, Saved(2, record))
    moved.data.allow_changes = True
    assert find_teacher(moved, file, Saved(2, changed)).folder == tmp_path / "moved"
    assert "the teacher is not the one that the run began with" in capsys.readouterr().out


def test_a_run_imitates_its_teacher(small_run, prepared, tmp_path, monkeypatch):
    waiting, wait, embed = [], MetricAccumulator.waiting, Teacher.__call__

    @contextlib.contextmanager
    def noted(meter):
        waiting.append(True)
        with wait(meter):
            yield
        waiting.pop()

    def checked(self, batch):
        assert not waiting  # a new shape compiles, which is not waiting for data
        return embed(self, batch)

    monkeypatch.setattr(MetricAccumulator, "waiting", noted)
    monkeypatch.setattr(Teacher, "__call__", checked)
    changes = {"train.steps": 2, "optimizer.warmup_steps": 1, "loss.captioning.weight": 0.0}
    config = distilling(prepared, small_run, **changes)
    experiment = build(config, tmp_path / "run")
    loop.run(experiment)
    saved = newest(tmp_path / "run/checkpoints")
    assert saved.metadata["teacher"]["identity"] == experiment.teacher.identity
    student, imitated = model_config(config), model_config(find_checkpoint(small_run).config)
    flops = training_flops(student, teacher=imitated)
    assert experiment.flops == {None: flops} and flops > training_flops(student)
    for record in read_metrics(tmp_path / "run"):
        if "train/loss" in record:
            value = record["train/distillation_loss"]
            total = record["train/contrastive_loss"] + 0.5 * value
            np.testing.assert_allclose(record["train/loss"], total, rtol=1e-5)
            assert value > 0 and 0 <= record["train/distillation_agreement"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.image.size": 64}, r"its images have \(32, 32\) pixels, and this run's \(64, 64\)"),
        (
            {"model.image.sequence_lengths": (64,)},
            r"\(32, 32\) pixels, and this run's at most 64 patches of",
        ),
        ({"data.packing.texts_per_row": 2}, r"it has OpenCLIP's mask \(shifted_cls_mask\)"),
        ({"model.text.context_length": 30}, "its texts have 28 tokens at most, and this run's 30"),
        ({"data.tokenizer.kind": "byte"}, "its tokenizer is of another kind"),
        ({"loss.distillation.teacher": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_a_teacher_is_refused(changes, message, small_run, prepared, monkeypatch):
    config = distilling(prepared, small_run)
    config.update_from_flattened_dict(changes)
    if "data.packing.texts_per_row" in changes:
        shifted = inference.find_checkpoint(small_run)
        shifted.config.model.text.shifted_cls_mask = True
        monkeypatch.setattr(teacher, "find_checkpoint", lambda path: shifted)
    with pytest.raises(UserError, match=message):
        find_teacher(config, tokenizer_file(small_run))
