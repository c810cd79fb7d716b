import copy
import functools
import io
import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from fuzz.drawing import CHANGE, TEXT, edited, edits, put
from fuzz.running import fuzz
from hypothesis import strategies as st
from reference import torch_writer

from coca_jax.errors import UserError
from coca_jax.interop.open_clip_config import model_config, settings
from coca_jax.interop.weights import open_tensors
from coca_jax.models import CoCaConfig
from coca_jax.models.presets import preset

pytestmark = pytest.mark.slow

TENSORS = {
    "text.embed.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "text.logit_scale": np.array(2.5, np.float32),
    "visual.conv.weight": np.ones((2, 1, 3), np.float16),
    "visual.bias": np.zeros(5, ml_dtypes.bfloat16),
}
PREFIXES = st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "_a."]), max_size=3)
AROUND = st.lists(st.sampled_from(["state_dict", "model", "ema", "a b", 5]), max_size=3)
EDITS = edits(least=1)


def nested(tensors, prefixes, around):
    """A checkpoint with tensors somewhere in it, under names that wrappers have changed."""
    tree = {"".join(prefixes) + name: tensor for name, tensor in tensors.items()}
    for key in around:
        tree = {"epoch": 3, key: tree, "optimizer": [{"lr": 0.1, "betas": (0.9, 0.99)}]}
    return tree


def torch_file(tree, changes=()):
    """A file of torch.save, with damage to its program of which its checksum knows."""
    file, result = io.BytesIO(), io.BytesIO()
    torch_writer.save(file, tree)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, edited(data, changes) if name.endswith("data.pkl") else data)
    return result.getvalue()


def read(path):
    """All that is found of the model's tensors."""
    found = open_tensors(path, TENSORS)
    small = {name: t for name, t in found.items() if np.prod(t.shape, dtype=float) < 1e6}
    arrays = {name: np.asarray(tensor) for name, tensor in small.items() if name in TENSORS}
    for name, array in arrays.items():
        assert array.shape == tuple(found[name].shape)
    return arrays


def require_equal(arrays):
    assert arrays.keys() == TENSORS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, TENSORS[name])


@fuzz(40, prefixes=PREFIXES, around=AROUND)
def test_weights_are_found_wherever_they_are(folder, prefixes, around):
    tree = nested(TENSORS, prefixes, around)
    (folder / "a.pt").write_bytes(torch_file(tree))
    require_equal(read(folder / "a.pt"))
    flat = {"".join(prefixes) + name: t for name, t in TENSORS.items()}
    (folder / "a.safetensors").write_bytes(safetensors.numpy.save(flat))
    require_equal(read(folder / "a.safetensors"))


@fuzz(80, around=AROUND, program=edits(), changes=EDITS)
def test_a_damaged_file_of_torch_is_refused_or_read(folder, around, program, changes):
    path = folder / "a.pt"
    for data, is_sound in (
        (torch_file(nested(TENSORS, (), around), program), not program),
        (edited(torch_file(nested(TENSORS, (), around)), changes), False),
    ):
        path.write_bytes(data)
        try:
            found = read(path)
        except UserError:
            assert not is_sound
            continue
        if is_sound:
            require_equal(found)


@fuzz(100, changes=EDITS)
def test_a_damaged_safetensors_file_is_refused_or_read(folder, changes):
    path = folder / "a.safetensors"
    data = safetensors.numpy.save(TENSORS)
    path.write_bytes(edited(data, changes))
    try:
        read(path)
    except UserError:
        return


@fuzz(60, change=CHANGE, changes=edits(), name=TEXT)
def test_a_damaged_index_of_shards_is_refused_or_whole(folder, change, changes, name):
    shards = [dict(list(TENSORS.items())[:2]), dict(list(TENSORS.items())[2:])]
    index = {"metadata": {"total_size": 1}, "weight_map": {}}
    for number, shard in enumerate(shards):
        file = f"model-{number}.safetensors"
        (folder / file).write_bytes(safetensors.numpy.save(shard))
        index["weight_map"] |= dict.fromkeys(shard, file)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    require_equal(read(path))
    put(index, *change)
    index.setdefault(name, name)
    path.write_bytes(edited(json.dumps(index).encode(), changes))
    for one in (path, folder):
        try:
            read(one)
        except UserError:
            continue


@functools.cache
def described():
    """A configuration of OpenCLIP's."""
    config = settings(CoCaConfig.from_dict(preset("open_clip_vit_b_32")))
    return {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}


@fuzz(150, changes=st.lists(CHANGE, min_size=1, max_size=3), inner=st.booleans())
def test_settings_of_open_clip_are_a_model_or_refused(folder, changes, inner):
    tree = copy.deepcopy(described()["model_cfg"] if inner else described())
    assert isinstance(model_config(tree), CoCaConfig)
    for place, value in changes:
        put(tree, place, value)
    try:
        assert isinstance(model_config(tree), CoCaConfig)
    except UserError as error:
        assert str(error).strip()
