"""A loaded model that takes images as they are."""

import dataclasses
import inspect

import cv2
import jax
import numpy as np
import pytest
from models.random_params import random_params

from coca_jax.config import default_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.runner import runnable_evals
from coca_jax.export.folder import require_functions
from coca_jax.inference import LoadedModel
from coca_jax.interop.open_clip import require_open_clip
from coca_jax.models import PRESETS, CoCa
from coca_jax.patches import Patches

SIZES = {"wide": (20, 100), "tall": (100, 20), "line": (1, 1000), "dot": (1, 1)}
GRIDS = {"wide": (2, 6), "tall": (6, 2), "line": (1, 12), "dot": (3, 3)}


@pytest.fixture(scope="module")
def model():
    tiny = PRESETS["tiny"]
    text = dataclasses.replace(tiny.text, vocab_size=259)
    config = dataclasses.replace(tiny, text=text).with_sequence_length(12)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    params = random_params(CoCa(config))
    return LoadedModel(CoCa(config), params, make_tokenizer("byte", ""), Partitioner(mesh))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, size in SIZES.items():
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return [folder / f"{name}.png" for name in SIZES]


def test_each_file_has_a_grid_of_its_own(model, paths):
    images = model.preprocess(paths)
    assert isinstance(images, Patches) and images.patches.dtype == np.float32
    assert [tuple(grid) for grid in images.grid] == [*GRIDS.values()]
    assert np.abs(images.patches).max() <= 1 and images.patches.shape[1] == 12


def test_images_that_cannot_be_read_are_left_out(model, paths, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    images, errors = model.read_images([tmp_path / "bad.png", paths[0]])
    assert len(images) == 1 and errors[0] and errors[1] is None
    none, _ = model.read_images([tmp_path / "bad.png"])
    assert len(none) == 0 and isinstance(none, Patches)
    with pytest.raises(UserError, match="num_frames=2: this model takes images as they are"):
        model.read_images(paths, num_frames=2)


def test_results_do_not_depend_on_the_batch(model, paths):
    images = model.preprocess(paths)
    together = model.encode_image(images)
    alone = np.concatenate([model.encode_image(images[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(together[:2], alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_captions_have_maps_of_their_images_grid(model, paths):
    images = model.preprocess(paths[:2])
    captions = model.caption(images, length=6)
    assert len(captions) == 2
    for words, name in zip(model.attention_maps(images, ["a b", "a b"]), SIZES, strict=False):
        assert [weights.shape for _, weights in words] == [GRIDS[name]] * 2
        np.testing.assert_allclose([weights.sum() for _, weights in words], 1, rtol=1e-4)


def test_one_image_or_pixels_of_another_size_are_refused(model, paths):
    images = model.preprocess(paths[0])
    for pixels in (images[0], np.zeros((1, 20, 100, 3), np.uint8)):
        unchecked = inspect.unwrap(LoadedModel.encode_image)  # as users have it
        with pytest.raises(UserError, match=r"and should be `Patches`: `preprocess` makes them"):
            unchecked(model, pixels)


def test_what_needs_images_of_one_size_is_refused(model):
    with pytest.raises(UserError, match=r"sequence_lengths=\[12\]\), and an exported model"):
        require_functions(model)
    with pytest.raises(UserError, match=r"model.image.sequence_lengths: \(12,\), not \(\)"):
        require_open_clip(model.config)
    config = default_config()
    config.eval = {"p": {"kind": "probe", "name": "a", "split": "b", "train_split": "c"}}
    with pytest.raises(UserError, match=r"config.eval.p: reads as many tokens of every image"):
        runnable_evals(config, model.config)
    config.eval = {"v": {"kind": "zero_shot", "name": "a", "split": "b", "num_images": 2}}
    with pytest.raises(UserError, match=r"config.eval.v: has 2 images of an example"):
        runnable_evals(config, model.config)
