import dataclasses

import pytest

from coca_jax.config import default_config, load_config
from coca_jax.errors import UserError
from coca_jax.losses import Loss, losses
from coca_jax.validation import validate


def problems(devices=8, **changes):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as caught:
        validate(config, devices)
    return str(caught.value).splitlines()


def test_the_default_is_right():
    validate(default_config(), 8)


def test_a_sweep_is_no_experiment():
    with pytest.raises(UserError, match=r"^the configuration is a sweep: .* coca compare trains$"):
        validate(load_config("configs/compare.py:smoke"), 8)


def test_unknown_and_mistyped_keys():
    config = default_config()
    config.optimizer.momentum = 0.9
    with config.ignore_type():
        config.train.steps = "long"
    del config.seed
    with pytest.raises(UserError) as caught:
        validate(config, 1)
    assert sorted(str(caught.value).splitlines()) == [
        "config.optimizer.momentum=0.9 is unknown; docs/configuration.md has all keys",
        "config.seed is missing; its default is 0",
        "config.train.steps='long' should be a whole number from 1 to 2,147,483,647",
    ]


def test_all_wrong_values_at_once():
    found = problems(
        **{
            "optimizer.name": "sgd",
            "train.batch_size": 100,
            "model.image.patch": 7,
            "model.dropout": 1.0,
            "model.remat": "some",
            "mesh.tensor": 8,
            "loss.contrastive.weight": 0.0,
            "loss.captioning.weight": 0.0,
        }
    )
    text = "\n".join(found)
    assert "config.optimizer.name='sgd' should be one of adafactor, adamw, lion" in text
    assert "config.model.dropout=1.0 should be a number of at least 0 and below 1" in text
    assert "config.model.remat='some' should be one of none, full, " in text
    assert "config.model.image.size=32 should be a multiple of config.model.image.patch=7" in text
    assert "config.model.text.num_heads=2 should be a multiple of config.mesh.tensor=8" in text
    assert "at least one loss must be trained" in text
    assert len(found) == 8


def test_fused_attention_that_cannot_be():
    found = problems(
        **{"model.attention": "cudnn", "model.dtype": "float32", "model.pooler.num_heads": 32}
    )
    assert "config.model.attention=cudnn needs config.model.dtype=bfloat16" in found
    assert any("config.model.pooler.num_heads=32 makes it" in problem for problem in found)
    assert problems(**{"compiler_options": ("xla_flag", ("xla_flag", True))}) == [
        "config.compiler_options=('xla_flag', ('xla_flag', True)) should be rows (name, value)"
    ]


def test_a_batch_has_whole_blocks_of_hard_negatives_in_each_part():
    blocks = {"loss.matching.weight": 0.5, "loss.matching.block_size": 16}
    assert problems(**blocks, **{"train.batch_size": 192}) == [
        "config.train.batch_size=192: should be divisible by 128 (8 data shards x 1 "
        "micro-batches x config.loss.matching.block_size=16), such as 128 or 256"
    ]


def test_batch_that_the_mesh_cannot_divide_names_the_nearest():
    assert problems(**{"train.batch_size": 100, "train.grad_accum_steps": 2}) == [
        "config.train.batch_size=100: should be divisible by 16 (8 data shards x 2 "
        "micro-batches), such as 96 or 112"
    ]


def test_mesh_larger_than_the_devices():
    (line,) = problems(devices=4, **{"mesh.data": 2, "mesh.fsdp": 4})
    assert line == "config.mesh: mesh data=2 x fsdp=4 x tensor=1 needs 8 devices, and there are 4"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "model.image.patch",
            0,
            "config.model.image.patch=0 should be a whole number from 1 to 65,536",
        ),
        (
            "model.text.num_heads",
            0,
            "config.model.text.num_heads=0 should be a whole number from 1 to 65,536",
        ),
        (
            "model.image.num_layers",
            -1,
            "config.model.image.num_layers=-1 should be a whole number from 1 to 10,000",
        ),
        ("seed", -1, "config.seed=-1 should be a whole number from 0 to 4,294,967,295"),
        (
            "optimizer.clip_norm",
            -1.0,
            "config.optimizer.clip_norm=-1.0 should be a number of at least 0",
        ),
        (
            "sharding.rules",
            (("batch",),),
            "should be rows (logical axis, mesh axes or None), of the",
        ),
    ],
)
def test_values_that_would_break_the_checks_themselves(key, value, message):
    assert any(message in line for line in problems(**{key: value}))


HEAD = {"loss.classification.weight": 1.0, "head.classes": ("a", "b")}
ALONE = {"loss.contrastive.weight": 0.0, "loss.captioning.weight": 0.0}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.num_images": 2}, "[64] takes one image an example, and config.data.num_images=2"),
        (
            {"model.pooler.caption_queries": 0},
            "[64] pads images, and with config.model.pooler.caption_queries=0",
        ),
        ({"model.image.sequence_lengths": (0,)}, "(0,) should be a list of any number of: a whole"),
    ],
)
def test_what_images_as_they_are_do_not_go_with(changes, message):
    lines = problems(**{"model.image.sequence_lengths": (64,)} | changes)
    assert any(f"config.model.image.sequence_lengths={message}" in line for line in lines)


def test_a_head_that_is_right():
    config = default_config()
    config.update_from_flattened_dict(HEAD | ALONE | {"data.train.captions": "none"})
    validate(config, 8)
    config.head.classes = ("sunglasses", "sunglasses")  # labels are numbers
    validate(config, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.classes": ("a", "b")}, "has no effect: config.loss.classification.weight=0.0"),
        (
            {"model.text.cross_attention_every": 3},
            "config.model.text.multimodal_layers=2 should be a multiple of "
            "config.model.text.cross_attention_every=3",
        ),
        (
            {"loss.matching.weight": 1.0, "data.packing.texts_per_row": 2},
            "config.data.packing.texts_per_row=2: config.loss.matching.weight needs a row for each",
        ),
        (
            {"loss.matching.weight": 1.0, "loss.contrastive.weight": 0.0},
            "config.loss.matching.weight needs config.loss.contrastive.weight above 0",
        ),
        (
            {"data.train.negatives": "wrong", "loss.contrastive.weight": 0.0},
            "config.data.train.negatives='wrong' has no effect: config.loss.contrastive.weight=0.0",
        ),
        (
            {"data.train.negatives": "wrong", "data.train.captions": "questions"},
            "config.data.train.negatives='wrong' is for captions, and captions=questions",
        ),
        (
            HEAD | {"head.classes": ("a",)},
            "classes=['a'] should be the names of two or more classes",
        ),
        (
            HEAD | {"head.classes": ("a", "a"), "data.train.captions": "questions"},
            "config.head.classes: answers cannot tell apart 'a'",
        ),
        (HEAD | {"head.input": "video"}, "config.head.input='video' should be one of image, text"),
        (HEAD | {"data.num_images": 2}, "config.data.num_images=2 is for a head alone"),
        (HEAD | {"data.train.captions": "none"}, "captions=none is for a head that reads images"),
        (
            HEAD | {"data.sources": {"a": {"captions": "none"}}},
            "captions=none is for a head that reads images",
        ),
        (
            HEAD | {"model.pooler.num_heads": 3},
            "should be a multiple of config.model.pooler.num_heads=3",
        ),
        (
            {"loss.classification.label_smoothing": 1.0},
            "should be a number of at least 0 and below 1",
        ),
        (HEAD | {"data.train.captions": "questions"}, "config.head.input=image sees no questions"),
        (HEAD | {"init.only": "a.*"}, "config.init.only='a.*' has no effect without"),
        ({"lora.full": ("a",)}, "config.lora.full=('a',) has no effect: config.lora.rank=0"),
        ({"lora.alpha": 4.0}, "config.lora.alpha=4.0 has no effect: config.lora.rank=0"),
        (
            {"data.train.keep_captions": True},
            "keep_captions=True has no effect without config.data.train.captions_from",
        ),
        (
            {"data.train.keep_captions": True, "data.train.negatives": "wrong"},
            "config.data.train.keep_captions=True adds captions that "
            "config.data.train.negatives='wrong' has no wrong ones for",
        ),
        (
            {"data.train.group": "label", "loss.contrastive.weight": 0.0},
            "config.data.train.group='label' has no effect: config.loss.contrastive.weight=0.0",
        ),
        (
            {"loss.contrastive.initial_temperature": 0.005},
            "config.loss.contrastive.initial_temperature=0.005 should be at least "
            "config.loss.contrastive.temperature_floor=0.01",
        ),
        (
            {"data.train.neighborhood_size": 4},
            "config.data.train.neighborhood_size=4 has no effect without "
            "config.data.train.neighborhoods",
        ),
        (
            {"optimizer.layer_decay": 1.5},
            "config.optimizer.layer_decay=1.5 should be a number above 0",
        ),
        (
            {"optimizer.layer_decay": 0.0},
            "config.optimizer.layer_decay=0.0 should be a number above 0",
        ),
    ],
)
def test_heads_that_cannot_be(changes, message):
    assert any(message in line for line in problems(**changes))


def test_a_loss_of_ones_own_trains_a_head_or_names_what_it_cannot_read(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Own(Loss):
        reads = ("class_logits",)

        def __call__(self, output, batch):
            return output.class_logits.mean(), {}

    monkeypatch.setattr(losses, "_added", {"own": Own})
    config = default_config()
    config.update_from_flattened_dict(ALONE | {"head.classes": ("a", "b"), "data.num_images": 2})
    validate(config, 8)
    Own.reads = ("class_logits", "logits")
    with pytest.raises(UserError) as caught:
        validate(config, 8)
    assert "config.loss.own reads logits, and the model has the outputs image_" in str(caught.value)
    assert "num_images=2 is for a head alone: config.loss.own.weight=1.0" in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("weight", 1.0), ("teacher", "runs/a")])
def test_distillation_needs_a_weight_and_a_teacher(name, value):
    (line,) = problems(**{f"loss.distillation.{name}": value})
    assert "distillation needs both" in line


PACKED = {"data.packing.texts_per_row": 4, "data.packing.row_length": 40}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.batch_size": 80}, "packs 32 examples at a time (8 rows), which should divide"),
        ({"train.grad_accum_steps": 4}, "divisible by 128 (8 data shards x 4 micro-batches x"),
        (ALONE | HEAD, "a head needs a row for each text; texts_per_row should be 1"),
        ({"model.text.shifted_cls_mask": True}, "needs config.model.text.shifted_cls_mask=False"),
    ],
)
def test_packing_that_cannot_be(changes, message):
    changes = PACKED | {"train.batch_size": 64} | changes
    assert any(message in line for line in problems(**changes))


EVALS = {"held_out": {"kind": "loss", "name": "shapes", "split": "test"}}
BEST = {"checkpoint.best_mode": "min", "checkpoint.every": 50, "train.evaluate_every": 100}


@pytest.mark.parametrize(
    ("metric", "changes", "message"),
    [
        ("loss", {}, "keep_best=loss should be EVALUATION/METRIC"),
        ("held_in/loss", {}, "config.eval has no held_in; its evaluations are held_out"),
        ("held_out/loss", {"checkpoint.best_mode": ""}, "best_mode should be min or max"),
        ("", {}, "best_mode=min has no effect without keep_best"),
        ("held_out/loss", {"train.evaluate_every": 0}, "config.train.evaluate_every=0"),
        ("held_out/loss", {"checkpoint.every": 40}, "evaluate_every=100 should be a multiple of"),
    ],
)
def test_the_best_checkpoint_needs_a_metric_of_saved_steps(metric, changes, message):
    config = default_config()
    config.eval = EVALS
    changes = BEST | {"checkpoint.keep_best": metric} | changes
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message) as caught:
        validate(config, 8, reads=("train",))
    assert len(str(caught.value).splitlines()) == 1
    config.update_from_flattened_dict(BEST | {"checkpoint.keep_best": "held_out/loss"})
    validate(config, 8, reads=("train",))
