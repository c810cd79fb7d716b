"""Our model with OpenCLIP's weights against what OpenCLIP itself computed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from reference.open_clip import FOLDER

from coca_jax.config import default_config
from coca_jax.errors import UserError
from coca_jax.interop import open_clip, open_clip_config
from coca_jax.losses.captioning import CaptioningLoss
from coca_jax.losses.contrastive import ContrastiveLoss
from coca_jax.models import PRESETS, CoCa
from coca_jax.models.transformer import unstack
from coca_jax.planning import parameter_counts
from coca_jax.train.optimizer import make_optimizer

LOSS = {
    "contrastive": ContrastiveLoss(reduction="mean"),  # CLIP's
    "captioning": CaptioningLoss(weight=2.0),  # as in OpenCLIP's recipe
}


def losses(params, config, pixels, ids):
    """The sum of the two weighted losses, in one pass, both of them and the outputs."""
    output = CoCa(config).apply({"params": params}, pixels, ids)
    data = {"text": ids, "text_mask": ids != config.text.pad_id}
    pair = [loss.weight * loss(output, data)[0] for loss in LOSS.values()]
    return sum(pair), (pair, output)


gradient = jax.jit(jax.grad(losses, has_aux=True), static_argnums=1)


def batch(outputs):
    return jnp.asarray(outputs["pixels"]), jnp.asarray(outputs["ids"], jnp.int32)


def test_presets_are_open_clips_sizes():
    assert sum(parameter_counts(PRESETS["open_clip_vit_b_32"]).values()) == 253_560_065
    assert sum(parameter_counts(PRESETS["open_clip_vit_l_14"]).values()) == 638_450_177
    assert len(open_clip.expected_shapes(PRESETS["open_clip_vit_b_32"])) == 629
    assert len(open_clip.expected_shapes(PRESETS["open_clip_vit_l_14"])) == 773


def test_no_bit_changes_on_the_way_in_and_out(theirs):
    back = open_clip.to_open_clip(theirs.params(), theirs.config())
    assert back.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    settings = open_clip_config.settings(theirs.config())
    assert open_clip_config.model_config(settings) == open_clip_config.model_config(theirs.settings)


def test_outputs_losses_and_gradients_of_every_tensor(theirs):
    config, outputs = theirs.config(), theirs.outputs
    pixels, ids = batch(outputs)
    real = (outputs["ids"] != 0).sum(1)
    assert set(range(2, config.text.context_length + 1)) == set(real)  # padding of every length
    gradients, ((contrastive, captioning), made) = gradient(theirs.params(), config, pixels, ids)
    compared = {
        "image_embeddings": made.image_embeddings,
        "text_embeddings": made.text_embeddings,
        "caption_logits": made.logits[:, :-1],
        "logit_scale": made.logit_scale,
    }
    for name, found in compared.items():
        np.testing.assert_allclose(found, outputs[name], rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(contrastive, outputs["contrastive_loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(captioning, outputs["caption_loss"], rtol=0, atol=1e-4)
    gradients = open_clip.to_open_clip(gradients, config)
    assert {f"grad/{name}" for name in gradients} == {n for n in outputs if "grad/" in n}
    for name, found in gradients.items():
        expected = outputs[f"grad/{name}"]
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-3, (name, error)


def test_the_right_cls_mask_is_open_clips_correct_one(theirs):
    config, outputs = theirs.config(shifted=False), theirs.outputs
    pixels, ids = batch(outputs)
    made = jax.jit(CoCa(config).apply)({"params": theirs.params()}, pixels, ids)
    expected = {k: outputs[f"correct_cls_mask/{k}"] for k in ("text_embeddings", "caption_logits")}
    real = outputs["ids"][:, 1:] != 0
    np.testing.assert_allclose(made.text_embeddings, expected["text_embeddings"], rtol=0, atol=1e-4)
    logits = np.where(real[..., None], made.logits[:, :-1] - expected["caption_logits"], 0)
    assert np.abs(logits).max() < 1e-4
    # The mask matters: the recorded embeddings differ wherever there is padding.
    differ = np.abs(outputs["text_embeddings"] - expected["text_embeddings"]).max(1) > 1e-3
    np.testing.assert_array_equal(differ, (outputs["ids"] == 0).any(1))


def test_twenty_steps_of_adamw(square):
    with np.load(FOLDER / "square.training.npz") as file:
        recorded = dict(file)
    settings = default_config().optimizer
    settings.update({"name": "adamw", "b1": 0.9, "b2": 0.98, "epsilon": 1e-6, "clip_norm": 0.0})
    settings.update({"learning_rate": 1e-3, "warmup_steps": 0, "schedule": "constant"})
    settings.weight_decay = 0.1
    # OpenCLIP decays every tensor of two dimensions or more.
    matrices = r".*(kernel|embedding|lm_head|projection|positions|queries)"
    settings.weight_decays = ((matrices, 1.0), (r".*", 0.0))
    config, params = square.config(), square.params()
    optimizer, _ = make_optimizer(ConfigDict(settings), 20, params)

    @jax.jit
    def step(params, state, pixels, ids):
        gradients, (pair, _) = gradient(params, config, pixels, ids)
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        ceiling = jnp.log(1 / LOSS["contrastive"].temperature_floor)
        return params | {"logit_scale": jnp.clip(params["logit_scale"], 0, ceiling)}, state, pair

    state = optimizer.init(params)
    for number in range(20):
        pixels = jnp.asarray(recorded["pixels"][number % 4])
        ids = jnp.asarray(recorded["ids"][number % 4], jnp.int32)
        params, state, (contrastive, captioning) = step(params, state, pixels, ids)
        for found, name in ((contrastive, "contrastive_loss"), (captioning, "caption_loss")):
            np.testing.assert_allclose(found, recorded[name][number], rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(
            params["logit_scale"], recorded["logit_scale"][number], rtol=1e-3
        )


def test_layers_apart_are_the_same_model(square):
    pixels, ids = batch(square.outputs)
    config = square.config()
    apart = CoCa(dataclasses.replace(config, stacked=False))
    made = jax.jit(apart.apply)({"params": unstack(square.params())}, pixels, ids)
    np.testing.assert_allclose(made.logits[:, :-1], square.outputs["caption_logits"], atol=1e-4)
    names = jax.eval_shape(lambda: nn.meta.unbox(apart.init(jax.random.key(0), pixels, ids)))
    assert jax.tree.structure(names["params"]) == jax.tree.structure(unstack(square.params()))


def test_what_does_not_fit_is_counted_and_named_with_its_shape(square):
    tensors = dict(square.tensors)
    tensors |= {f"text.extra{i}": np.zeros((3, 4), np.float32) for i in range(7)}
    tensors["visual.proj"] = np.zeros((16, 15), np.float32)
    tensors["text.text_projection"] = np.zeros((16, 16), np.int64)
    del tensors["text.cls_emb"]
    with pytest.raises(UserError) as error:
        open_clip.from_open_clip(tensors, square.config())
    shown = "; ".join(f"text.extra{i} (3, 4)" for i in range(5))
    assert str(error.value).splitlines()[1:] == [
        "  1 missing: text.cls_emb (16,)",
        f"  7 surplus: {shown} and 2 more",
        "  1 of another shape: visual.proj (16, 15), should be (16, 16)",
        "  1 of another type than float64, float32, float16, bfloat16: text.text_projection int64",
    ]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floats_and_numbers_of_shape_1(square, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in square.tensors.items()}
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    back = open_clip.to_open_clip(
        open_clip.from_open_clip(tensors, square.config()), square.config()
    )
    for name, tensor in square.tensors.items():
        assert back[name].dtype == np.float32 and back[name].shape == tensor.shape
        np.testing.assert_array_equal(back[name], tensor.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_named(square, value):
    tensors = square.tensors | {"visual.proj": square.tensors["visual.proj"].astype(np.float64)}
    tensors["visual.proj"][3, 4] = value
    with pytest.raises(UserError, match=r"NaN or infinity is in 1 of the weights: visual\.proj"):
        open_clip.from_open_clip(tensors, square.config())


def test_models_that_open_clip_lacks_are_refused(square):
    with pytest.raises(UserError) as error:
        open_clip.require_open_clip(PRESETS["tiny"])
    assert "model.image.class_token: False, not True" in str(error.value)
    assert "model.pooler.kind: cascade, not shared" in str(error.value)
    open_clip.require_open_clip(square.config())
    text = dataclasses.replace(square.config().text, cross_attention_every=2)
    with pytest.raises(UserError, match=r"model\.text\.cross_attention_every: 2, not 1"):
        open_clip.require_open_clip(dataclasses.replace(square.config(), text=text))
