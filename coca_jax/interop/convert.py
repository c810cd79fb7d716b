"""`coca convert`: whole models, with tokenizer and preprocessing, from and to other projects."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config, model_config, to_json, validate, write_config
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint, restore_params
from coca_jax.interop import open_clip
from coca_jax.interop.weights import read_tensors, write_tensors
from coca_jax.models import CoCaConfig
from coca_jax.models.presets import PRESETS, as_section
from coca_jax.parallel import Partitioner, make_mesh


def import_open_clip(
    file: pathlib.Path, variant: str, directory: pathlib.Path, shifted_cls_mask: bool = True
) -> int:
    """Writes a directory that `coca_jax.load` reads: parameters as step 0, and `config.json`.

    Args:
      file: OpenCLIP's weights.
      variant: name of the preset that they are of, or a JSON file with an OpenCLIP configuration.
      directory: new or empty.
      shifted_cls_mask: whether the weights were trained with OpenCLIP's [CLS] mask, as the
        released ones were.

    Returns:
      The number of parameters.

    Raises:
      UserError: the weights do not fit the variant, or a file cannot be read or written.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty; choose another folder for the converted model")
    model = _variant(variant)
    text = dataclasses.replace(model.text, shifted_cls_mask=shifted_cls_mask)
    config = _config(dataclasses.replace(model, text=text))
    validate(config)
    params = open_clip.from_open_clip(read_tensors(file), model_config(config))
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with CheckpointStore(partial / "checkpoints") as store:
        store.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, {"examples_seen": 0})
    write_config(partial, config, source=f"{file.name} (OpenCLIP, {variant})")
    partial.replace(directory)
    return sum(x.size for x in jax.tree.leaves(params))


def export_open_clip(path: pathlib.Path, file: pathlib.Path) -> list[str]:
    """Writes a model's weights as OpenCLIP has them, in a .safetensors file.

    Args:
      path: a workdir, one of its checkpoints, or a converted model. Of a run with a moving average
        of its parameters, it is the average that is written.
      file: what to write.

    Returns:
      What has to be set in OpenCLIP, since its weights do not say it; a line each.

    Raises:
      UserError: OpenCLIP has no such model, or a file cannot be read or written.
    """
    checkpoint = find_checkpoint(path)
    model = model_config(checkpoint.config)
    open_clip.require_open_clip(model)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    params = restore_params(checkpoint, Partitioner(mesh))
    tensors = open_clip.to_open_clip(jax.tree.map(np.asarray, params), model)
    write_tensors(file, tensors, open_clip.settings(model))
    notes = [f"pixels are normalised by mean={model.image.mean}, std={model.image.std}"]
    if not model.text.shifted_cls_mask:
        notes.append("[CLS] attends as it should: set text.correct_cls_mask = True")
    return notes


def _variant(name: str) -> CoCaConfig:
    if name.endswith(".json"):
        try:
            return open_clip.model_config(json.loads(pathlib.Path(name).read_text()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{name} cannot be read: {error}") from error
    known = [preset for preset in PRESETS if preset.startswith("open_clip")]
    if name not in known:
        raise UserError(
            f"variant {name!r} is not known; there are {', '.join(known)}, and JSON files of "
            "OpenCLIP's model_configs"
        )
    return PRESETS[name]


def _config(model: CoCaConfig) -> ConfigDict:
    """A whole configuration around an imported model, with the losses that OpenCLIP trains."""
    config = default_config()
    config.model = ConfigDict(as_section(model))
    config.loss.contrastive.reduction = "mean"
    config.data.tokenizer.kind = "clip"
    return ConfigDict(to_json(config))
