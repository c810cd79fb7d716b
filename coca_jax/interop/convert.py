"""`coca convert`: whole models, with tokenizer and preprocessing, from and to other projects."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import default_config, model_config, to_json, write_config
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint, restore_params
from coca_jax.interop import open_clip, open_clip_config
from coca_jax.interop.weights import open_tensors, write_tensors
from coca_jax.io.files import atomic
from coca_jax.io.folders import children, remove_tree
from coca_jax.io.messages import cause
from coca_jax.io.paths import as_path, is_url
from coca_jax.models import CoCaConfig
from coca_jax.models.presets import PRESETS, as_section
from coca_jax.validation import validate

SETTINGS = "open_clip_config.json"  # what OpenCLIP keeps next to weights on a hub


def import_open_clip(
    source: str | os.PathLike,
    variant: str | None,
    directory: str | os.PathLike,
    shifted_cls_mask: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> int:
    """Writes a directory that `coca_jax.load` reads: parameters as step 0, and `config.json`.

    Args:
      source: OpenCLIP's weights: a file, an index of shards, or a folder with one of them.
      variant: name of the preset that they are of, or a JSON file with an OpenCLIP configuration;
        None: the `open_clip_config.json` next to the weights.
      directory: new or empty.
      shifted_cls_mask: whether the weights were trained with OpenCLIP's [CLS] mask, as the
        released ones were.
      report: is given a line for each thing that the user should know.

    Returns:
      The number of parameters.

    Raises:
      UserError: the weights do not fit the variant, or a file cannot be read or written.
    """
    directory = as_path(directory)
    if children(directory):
        raise UserError(f"{directory} is not empty; choose another folder for the converted model")
    path = as_path(source)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    model = _variant(variant, path)
    text = dataclasses.replace(model.text, shifted_cls_mask=shifted_cls_mask)
    config = _config(dataclasses.replace(model, text=text))
    validate(config)
    model = model_config(config)
    tensors = open_tensors(path, open_clip.expected_shapes(model), report)
    try:
        params = open_clip.from_open_clip(tensors, model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with _new_folder(directory) as folder:
        with CheckpointStore(folder / "checkpoints") as store:
            metadata = {"examples_seen": 0, "config": to_json(config)}
            store.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, metadata)
        write_config(folder, config, source=f"{path.name} (OpenCLIP, {variant or SETTINGS})")
    return sum(x.size for x in jax.tree.leaves(params))


@contextlib.contextmanager
def _new_folder(directory: epath.Path) -> Iterator[epath.Path]:
    """Yields a folder to write to; `directory` exists afterwards only if the block succeeds."""
    if not is_url(os.fspath(directory)):
        with atomic(directory) as temporary:
            yield epath.Path(temporary)
        return
    # A store cannot rename folders; there, a folder is a model's once it has its config.json.
    remove_tree(directory)
    try:
        yield directory
    except BaseException:
        remove_tree(directory)
        raise


def export_open_clip(path: str | os.PathLike, file: str | os.PathLike) -> list[str]:
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
    write_tensors(file, tensors, open_clip_config.settings(model))
    notes = [f"pixels are normalized by mean={model.image.mean}, std={model.image.std}"]
    if not model.text.shifted_cls_mask:
        notes.append("[CLS] attends as it should: set text.correct_cls_mask = True")
    return notes


def _variant(name: str | None, source: epath.Path) -> CoCaConfig:
    known = [preset for preset in PRESETS if preset.startswith("open_clip")]
    if name in known:
        return PRESETS[name]
    path = as_path(name) if name else source if source.is_dir() else source.parent
    if path.is_dir():
        path = path / SETTINGS
    if not path.is_file() and not name:
        raise UserError(
            f"--from open_clip needs --variant, such as {known[0]}: there is no {path}, which "
            "would say what the weights are of"
        )
    if not path.is_file() and path.suffix != ".json":
        raise UserError(
            f"variant {name!r} is not known; there are {', '.join(known)}, and JSON files of "
            f"OpenCLIP's model_configs or {SETTINGS}"
        )
    try:
        return open_clip_config.model_config(json.loads(path.read_bytes()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {cause(error)}") from error


def _config(model: CoCaConfig) -> ConfigDict:
    """A whole configuration around an imported model, with the losses that OpenCLIP trains."""
    config = default_config()
    config.model = ConfigDict(as_section(model))
    config.loss.contrastive.reduction = "mean"
    config.data.tokenizer.kind = "clip"
    return ConfigDict(to_json(config))
