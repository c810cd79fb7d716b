"""Images as they are: a model of `Patches`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.random_params import random_params

from coca_jax.models import PRESETS, CoCa, CoCaClassifier, HeadConfig, attention_maps
from coca_jax.models.image_encoder import drop_patches
from coca_jax.models.inputs import call_inputs, with_masks
from coca_jax.patches import PatchBudget, Patches, put, room

TINY = PRESETS["tiny"]
TINY = dataclasses.replace(
    TINY,
    image=dataclasses.replace(TINY.image, num_layers=1),
    text=dataclasses.replace(TINY.text, unimodal_layers=1, multimodal_layers=1),
)
PATCH, SIDE = TINY.image.patch, TINY.image.size
BASE = TINY.image.grid
CHANGES = {
    "cascade": {},
    "parallel": {"pooler": {"kind": "parallel"}, "image": {"class_token": True}},
    "shared": {"pooler": {"kind": "shared"}},
}


@functools.cache
def case(name, length=0):
    """A model and its parameters; with a length, of images as they are."""
    changes = CHANGES[name]
    config = dataclasses.replace(
        TINY,
        **{k: dataclasses.replace(getattr(TINY, k), **v) for k, v in changes.items()},
        matching_block=2 * (name == "shared"),
    )
    config = config.with_sequence_length(length or None)
    return CoCa(config), random_params(CoCa(config))


@functools.cache
def forward(name, length):
    model, params = case(name, length)
    apply = jax.jit(model.apply)

    def run(images, ids):
        batch = with_masks(model.config, {"text": ids})
        return apply({"params": params}, images, ids, **call_inputs(model.config, batch))

    return run


def cut(images, length):
    """Normalized images of whole patches as `Patches`."""
    grids = np.array([[x.shape[0] // PATCH, x.shape[1] // PATCH] for x in images], np.int32)
    patches = np.zeros((len(images), length, PATCH**2 * 3), np.float32)
    for row, image, (rows, columns) in zip(patches, images, grids, strict=True):
        for i in range(rows):
            for j in range(columns):
                piece = image[i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
                row[i * columns + j] = piece.ravel()
    return Patches(patches, grids)


def random_images(*grids):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((r * PATCH, c * PATCH, 3)).astype(np.float32) for r, c in grids]


def texts(count):
    ids = np.random.default_rng(1).integers(1, 64, (count, 6)).astype(np.int32)
    return jnp.array(ids)


def outputs(output):
    return [np.asarray(x) for x in jax.tree.leaves(output)]


@pytest.mark.parametrize("name", CHANGES)
def test_squares_of_the_base_grid_are_those_of_one_size(name):
    images = random_images(BASE, BASE)
    fixed = forward(name, 0)(jnp.array(np.stack(images)), texts(2))
    length = BASE[0] * BASE[1] + 3  # odd, and with padding
    native = forward(name, length)(cut(images, length), texts(2))
    for one, other in zip(outputs(fixed), outputs(native), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", CHANGES)
def test_padding_never_changes_a_bit(name):
    batch = cut(random_images((1, 5), (3, 2), (4, 1)), 7)
    noise = np.random.default_rng(2).standard_normal(batch.patches.shape)
    other = Patches(np.where(batch.mask[..., None], batch.patches, 100 * noise), batch.grid)
    other = Patches(other.patches.astype(np.float32), batch.grid)
    run = forward(name, 7)
    for one, changed in zip(
        outputs(run(batch, texts(3))), outputs(run(other, texts(3))), strict=True
    ):
        np.testing.assert_array_equal(one, changed)


def test_the_length_does_not_matter():
    batch = random_images((1, 5), (3, 2))
    found = [outputs(forward("cascade", n)(cut(batch, n), texts(2))) for n in (6, 11)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_images_differ_by_their_grid():
    image = np.zeros((1, 6, PATCH**2 * 3), np.float32)
    model, params = case("cascade", 6)
    encode = jax.jit(functools.partial(model.apply, {"params": params}, method="encode_image"))
    wide, tall = (encode(Patches(image, np.array([g], np.int32))) for g in ((2, 3), (3, 2)))
    assert np.abs(wide - tall).max() > 1e-3


def test_gradients_of_padding_are_zero():
    model, params = case("cascade", 7)
    batch = cut(random_images((1, 5), (2, 3)), 7)

    @jax.jit
    def by_patches(patches):
        embed = lambda x: model.apply({"params": params}, x, method="encode_image")  # noqa: E731
        return jax.grad(lambda p: jnp.sum(embed(Patches(p, jnp.array(batch.grid))) ** 3))(patches)

    gradient = np.asarray(by_patches(batch.patches))
    assert (gradient[~batch.mask] == 0).all() and (gradient[batch.mask] != 0).any(axis=-1).all()


def test_maps_of_attention_are_zero_at_padding():
    model, params = case("parallel", 7)
    batch = cut(random_images((1, 5), (2, 3)), 7)
    maps = jax.jit(functools.partial(attention_maps, model))(params, batch, texts(2))
    assert (np.asarray(maps).transpose(0, 2, 1)[~batch.mask] == 0).all()
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)


def test_dropped_patches_are_padding_first():
    mask = jnp.arange(10)[None] < jnp.array([[3], [6], [10]])
    x = jnp.broadcast_to(jnp.arange(10.0)[None, :, None], (3, 10, 1))
    kept, still = drop_patches(jax.random.key(0), x, 0.5, mask)
    assert still.sum(1).tolist() == [3, 5, 5]
    for row, count in zip(np.asarray(kept)[..., 0], (3, 6, 10), strict=True):
        assert (row[:3] < count).all() and (np.diff(row) > 0).all()


def test_a_head_reads_no_padding():
    head = HeadConfig(classes=3)
    config = dataclasses.replace(TINY, head=head, captioning=False, contrastive="none")
    model = CoCaClassifier(config.with_sequence_length(7))
    params = random_params(model)
    batch = cut(random_images((1, 5), (2, 3)), 7)
    classify = jax.jit(functools.partial(model.apply, {"params": params}, method="classify"))
    logits = classify(batch, texts(2))
    other = Patches(np.where(batch.mask[..., None], batch.patches, 3.0), batch.grid)
    np.testing.assert_array_equal(logits, classify(other, texts(2)))


def test_pixels_are_put_together_as_they_were_cut():
    image = np.random.default_rng(0).integers(256, size=(2 * 4, 3 * 4, 3), dtype=np.uint8)
    batch = room(2, PatchBudget(4, 7))
    put(batch, 1, image)
    np.testing.assert_array_equal(batch[1].whole(), image)
    assert batch.mask.sum(1).tolist() == [0, 6] and (batch.patches[1, 6:] == 0).all()
